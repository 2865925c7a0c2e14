"""Other tokens: rows of two real tokenizers meet where both have read the same bytes, and labels are read by rank."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import tiny
from command import instil
from instil.core.errors import ConfigError, LabelError
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Encoded, Kind, Limits, encode_records
from instil.labels.aligned import NOWHERE, AlignedLabels, Ends, target_ends
from instil.models import gguf_files, wheels
from instil.models.loading import load_reader
from instil.run.recipe_file import read_recipe
from project import finished, models_folder, project
from small import BUILDERS, small_tokenizer, texts

PROMPT = Prompt(text="sum: ")
LIMITS = Limits(source=64, target=64)
ODD = "The naïve  café — 12,345 € “quoted”\n\nline… 日本語 🙂 done"
RECORDS = [Record("odd", "a", (ODD,)), *(Record(each.id, "a", (each.targets[0],)) for each in texts()[:40])]
NAMES = ("byte-level", "gemma", "t5", "unigram", *wheels.WHEELS)


@dataclass(frozen=True)
class Side:
    """A tokenizer, the records in its tokens, and where its rows end."""

    tokenizer: Any
    examples: dict[str, Encoded]
    ends: dict[str, Ends]

    def spells(self, record: Record) -> bool:
        """Whether the target comes back as it was: no unknown character, no two spaces made one."""
        ids = list(self.examples[record.id].target_ids)
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip() == record.targets[0]

    def bytes_read(self, record: Record, row: int) -> bytes:
        """What the row has read of the target, as the tokenizer spells it."""
        ids = list(self.examples[record.id].target_ids[:row])
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).lstrip(" ").encode()


@functools.cache
def side(name: str) -> Side:
    """Skips where the tokenizer comes from a wheel that is not unpacked on this machine."""
    if name in wheels.WHEELS:
        if not gguf_files.conversion_folder(name, wheels.WHEELS[name].sha256).is_dir():
            pytest.skip(f"{name} is not in the cache")
        reader = load_reader(wheels.PREFIX + name, say=pytest.fail)
        return side_of(reader.tokenizer, reader.kind)
    return side_of(small_tokenizer(name), "encoder-decoder" if BUILDERS[name][0] in ("t5", "bart") else "decoder-only")


def side_of(tokenizer: Any, kind: Kind, records: Sequence[Record] = RECORDS, prompt: Prompt = PROMPT) -> Side:
    examples, _ = encode_records(tokenizer, prompt, records, LIMITS, kind)
    ends = target_ends(tokenizer, prompt, [record.targets[0] for record in records], kind)
    return Side(tokenizer, {each.id: each for each in examples}, dict(zip((r.id for r in records), ends, strict=True)))


def aligned_of(theirs: Side, own: Side, store: Any = None) -> AlignedLabels:
    return AlignedLabels(store, list(theirs.examples.values()), theirs.ends, own.ends)


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(NAMES, 2)))
def test_rows_that_meet_have_read_the_same_bytes(one: str, other: str) -> None:
    theirs, own = side(one), side(other)
    aligned = aligned_of(theirs, own)
    met, rows, compared = 0, 0, 0
    for record in RECORDS:
        places = aligned.rows(own.examples[record.id])
        pairs = [(place, row) for row, place in enumerate(places) if place != NOWHERE]
        assert len(places) == len(own.examples[record.id].target_ids) and pairs == sorted(pairs)
        met, rows = met + len(pairs), rows + len(places)
        if theirs.spells(record) and own.spells(record):
            compared += len(pairs)
            for place, row in pairs:
                assert theirs.bytes_read(record, place).rstrip() == own.bytes_read(record, row).rstrip(), (
                    record.id,
                    row,
                )
    assert met > 0.5 * min(rows, sum(len(each.target_ids) for each in theirs.examples.values())) and compared > met / 4


@pytest.mark.parametrize("name", ["byte-level", "gemma", "t5", "unigram"])
def test_a_tokenizer_meets_itself_everywhere_but_inside_characters(name: str) -> None:
    whole = side(name)
    for example in whole.examples.values():
        places = aligned_of(whole, whole).rows(example)
        assert all(place in (row, NOWHERE) for row, place in enumerate(places))
        if example.id != "odd":
            assert sum(place == NOWHERE for place in places) < 0.4 * len(places)


def test_where_rows_end() -> None:
    """Two bytes of one character, a token that begins with a space, what a tokenizer adds, and the end of the text."""
    decoder = side_of(tiny.tiny_tokenizer("decoder-only"), "decoder-only", [Record("a", "x", ("aé b",))])
    # Tokens: space, a, two bytes of é, space, b, end. The first space stands between prompt and target.
    assert decoder.ends["a"] == [NOWHERE, 0, 1, NOWHERE, 2, 3, 4]
    encoder = side_of(tiny.tiny_tokenizer("encoder-decoder"), "encoder-decoder", [Record("a", "x", ("aé b",))])
    assert encoder.ends["a"] == [0, 1, NOWHERE, 2, 3, 4]
    assert aligned_of(decoder, encoder).rows(encoder.examples["a"]) == [1, 2, NOWHERE, 4, 5, 6]


class Store:
    """Labels of a teacher that gives row r of every example the probabilities `ROWS[r]`, in no order."""

    ROWS = torch.tensor([[0.1, 0.6], [0.2, 0.3], [0.7, 0.0], [0.5, 0.1], [0.4, 0.5], [0.9, 0.0], [0.3, 0.25]])

    def read(self, examples: Sequence[Encoded], temperature: float | None) -> tuple[torch.Tensor, torch.Tensor]:
        assert temperature == 2.0
        probs_NK = torch.cat([self.ROWS[: len(example.target_ids)] for example in examples])
        return torch.where(probs_NK > 0, torch.tensor([7, 9]), -1), probs_NK


def test_labels_come_by_rank_to_the_rows_that_meet() -> None:
    records = [Record("a", "x", ("aé b",)), Record("b", "x", ("ab",))]
    theirs, own = (
        side_of(tiny.tiny_tokenizer(kind), kind, records) for kind in ("decoder-only", "encoder-decoder")
    )  # fmt: skip
    aligned = aligned_of(theirs, own, Store())
    ranks_NK, probs_NK = aligned.read([own.examples["b"], own.examples["a"]], 2.0)
    wanted = [[0.3, 0.2], [0.7, 0.0], [0.5, 0.1],  # "b": rows 1, 2, 3 of the teacher.
              [0.3, 0.2], [0.7, 0.0], [0.0, 0.0], [0.5, 0.4], [0.9, 0.0], [0.3, 0.25]]  # fmt: skip
    assert torch.allclose(probs_NK, torch.tensor(wanted))
    assert ranks_NK.tolist() == [[rank if p else -1 for rank, p in enumerate(row)] for row in wanted]


def test_a_tokenizer_that_cannot_tell_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(LabelError, match="Slow cannot tell where its tokens end"):
        target_ends(Slow(), PROMPT, ["a"], "decoder-only")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("distil.features={}", "tokens: aligned does not go with features"),
        ("distil.weigh=sure", "tokens: aligned does not go with weigh: sure"),
        ("distil.curriculum={by: loss}", "by: entropy does"),
    ],
)
def test_what_does_not_go_with_it_is_refused(setting: str, message: str, tmp_path: Path) -> None:
    path = project(tmp_path) / "recipe.yaml"
    with pytest.raises(ConfigError, match=message):
        read_recipe(path, ("distil.tokens=aligned", setting))


@pytest.mark.timeout(300)
def test_a_student_of_another_family_learns_from_the_labels_of_its_teacher(tmp_path: Path) -> None:
    """T5 teaches Llama: by texts alone unless the recipe says otherwise."""
    other = {"student": {"model": str(models_folder() / "llama"), "layers": None, "calibration": 64}}
    folder = project(tmp_path, "t5", pairs=40, teacher={"teach": None}, distil={"without_teacher": False}, **other)
    told = instil("distil", "recipe.yaml", cwd=folder)
    assert told.code == 2 and "distil.tokens: aligned" in told.said
    options = ("--set", "distil.tokens=aligned", "--set", "distil.divergence=total_variation")
    ended = instil("distil", "recipe.yaml", *options, "--json", cwd=folder)
    assert ended.code == 0, ended.err
    assert "rows meet one of the teacher's" in ended.err
    steps = [json.loads(line) for line in (finished(folder, "distil") / "history.jsonl").open()]
    assert len(steps) == 8 and all(0 < step["soft"] <= 1 for step in steps)
    assert isinstance(
        hf.AutoModelForCausalLM.from_pretrained(finished(folder, "distil") / "model"), hf.LlamaForCausalLM
    )
