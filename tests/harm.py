"""A sound project in which nothing fails, and the ways in which its data and models can be harmed."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
import yaml
from torch.nn import functional as F

import tiny
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Encoded, Limits, encode_records
from instil.models.family import Rows, family_of
from instil.run.recipe_file import read_recipe
from instil.run.stages.label import sources_of
from instil.run.stages.teach import base_teacher
from project import _merged, models_folder, project, write_pairs
from small import small_model, small_tokenizer

Harm = Callable[[Path], None]
Records = list[dict[str, Any]]
GERMAN = "der Hund und die Katze sind auf dem Weg nicht von das rote Haus weit"
ENGLISH = "the dog and the cat are on the way to this red house which was not far from that"


@functools.cache
def taught(steps: int) -> str:
    """The folder of a tiny T5 that learned for so many steps to write the first two words."""
    folder = models_folder() / f"taught-{steps}"
    torch.manual_seed(0)
    model = hf.T5ForConditionalGeneration(hf.T5Config(**tiny._T5, dropout_rate=0.0))
    tokenizer = tiny.tiny_tokenizer("encoder-decoder")
    examples, family = _examples(folder.with_suffix(".jsonl"), tokenizer), family_of(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        chosen = random.Random(step).sample(examples, 24)
        rows = family.rows(model, family.collate(chosen))
        loss = F.cross_entropy(rows.head.logits(rows.hidden_ND), rows.target_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _pairs(path: Path, count: int) -> Records:
    """The first two words, spelled backwards: no word of a target stands in its source."""
    rows = [json.loads(line) for line in write_pairs(path, count).read_text().splitlines()]
    return [{**row, "target": " ".join(word[::-1] for word in row["target"].split())} for row in rows]


def _examples(path: Path, tokenizer: Any) -> list[Encoded]:
    rows = _pairs(path, 300)
    records = [Record(row["id"], row["source"], (row["target"],)) for row in rows]
    limits = Limits(source=64, target=16)
    return encode_records(tokenizer, Prompt(text="sum: "), records, limits, "encoder-decoder")[0]


def sound(folder: Path, **sections: Any) -> Path:
    """A project in which nothing fails, with `sections` merged in."""
    basis: dict[str, Any] = {
        "teacher": {"model": taught(150), "teach": None},
        "labels": {"temperatures": [1.0]},
        "distil": {"temperature": 1.0, "loop": {"optimizer": "adafactor"}},
        "student": {"layers": None, "scratch": {"layers": 1}},
        "evaluate": {"max_new_tokens": 12},
    }
    if "teach" in sections.get("teacher", {}):
        del basis["teacher"]["teach"]
    project(folder, **_merged(basis, sections))
    write_rows(folder, _pairs(folder / "pairs.jsonl", 200))
    return folder


def rows_of(folder: Path) -> Records:
    """The records of a project."""
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def write_rows(folder: Path, rows: Records, name: str = "pairs.jsonl") -> None:
    """Replaces a file of records."""
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def each(change: Callable[[dict[str, Any]], dict[str, Any]], *, share: float = 1.0) -> Harm:
    """Changes a share of the records."""

    def harm(folder: Path) -> None:
        rows = rows_of(folder)
        write_rows(folder, [change(row) if number % 20 < 20 * share else row for number, row in enumerate(rows)])

    return harm


def repeated(folder: Path) -> None:
    """Every record stands twice, under two ids."""
    rows = rows_of(folder)
    write_rows(folder, rows + [{**row, "id": f"again-{row['id']}"} for row in rows])


def held_out_too(share: float) -> Harm:
    """A share of the records stands in a file `test.jsonl` too."""

    def harm(folder: Path) -> None:
        rows = rows_of(folder)
        write_rows(folder, [{**row, "id": f"t{row['id']}"} for row in rows[: int(share * len(rows))]], "test.jsonl")

    return harm


def both(one: Harm, other: Harm) -> Harm:
    """One after the other."""

    def harm(folder: Path) -> None:
        one(folder)
        other(folder)

    return harm


def changed_model(role: str, change: Callable[[Path], None]) -> Harm:
    """The model of `role` is a changed copy of the teacher."""

    def harm(folder: Path) -> None:
        copy = Path(shutil.copytree(taught(150), folder / "changed"))
        change(copy)
        with_model(folder, role, str(copy))

    return harm


def with_model(folder: Path, role: str, model: str) -> None:
    """Sets the model of a section of the recipe."""
    place = folder / "recipe.yaml"
    recipe = yaml.safe_load(place.read_text())
    recipe[role] = {**recipe[role], "model": model} if role == "teacher" else {"model": model}
    place.write_text(yaml.safe_dump(recipe, sort_keys=False))


def as_student(make: Callable[[], str]) -> Harm:
    """A student with that model."""
    return lambda folder: with_model(folder, "student", make())


def as_teacher(make: Callable[[], str]) -> Harm:
    """A teacher with that model."""
    return lambda folder: with_model(folder, "teacher", make())


def as_system(make: Callable[[], str]) -> Harm:
    """A system with that model, to compare with."""
    return lambda folder: with_key(folder, "evaluate", "systems", {"theirs": {"model": make()}})


def bare_system(folder: Path) -> None:
    """A system to compare with whose folder has no weights."""
    copy = Path(shutil.copytree(taught(150), folder / "bare"))
    (copy / "model.safetensors").unlink()
    with_key(folder, "evaluate", "systems", {"theirs": {"model": str(copy)}})


def few_outputs(folder: Path) -> None:
    """A system to compare with whose file of outputs has that of one record."""
    write_rows(folder, [{"id": "none", "output": "words"}], "few.jsonl")
    with_key(folder, "evaluate", "systems", {"theirs": {"outputs": str(folder / "few.jsonl")}})


def settings(name: str, **values: Any) -> Callable[[Path], None]:
    """Changes values of a JSON file of a model."""

    def change(folder: Path) -> None:
        place = folder / name
        place.write_text(json.dumps({**json.loads(place.read_text()), **values}))

    return change


def without_end(folder: Path) -> None:
    """Takes the end token from a tokenizer."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)


def another_end(folder: Path) -> None:
    """Makes another token the end."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<s>"
    tokenizer.save_pretrained(folder)
    settings("config.json", eos_token_id=tiny.BEGIN)(folder)


def more_tokens(folder: Path) -> None:
    """Gives a tokenizer tokens that its model has no rows for."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{number}>" for number in range(20)])
    tokenizer.save_pretrained(folder)


def no_numbers(folder: Path) -> None:
    """Damages a row of the embedding."""
    model = hf.T5ForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.shared.weight[7] = float("nan")
    model.save_pretrained(folder)


def unigram() -> str:
    """The folder of a tiny T5 with a real tokenizer of its own, which lacks most characters."""
    folder = models_folder() / "unigram-t5"
    small_model("t5").save_pretrained(folder)
    small_tokenizer("t5").save_pretrained(folder)
    return str(folder)


def conditions(folder: Path) -> None:
    """Writes a card with a licence that forbids use for money."""
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")


def rolled_labels(folder: Path) -> None:
    """A store of the right teacher and data whose rows each have the label of the row before."""
    from instil.data.load import load_splits
    from instil.labels.codec import Codec
    from instil.labels.teacher import Teacher
    from instil.labels.writer import write_labels

    class Rolled(Teacher):
        def rows(self, examples: Any) -> Rows:
            found = super().rows(examples)
            return replace(found, hidden_ND=found.hidden_ND.roll(1, 0))

    recipe = read_recipe(folder / "recipe.yaml")
    base = base_teacher(recipe)
    splits, _ = load_splits(recipe.data, base=folder)
    limits = Limits(source=recipe.limits.source, target=recipe.limits.target)
    examples, _ = encode_records(base.loaded.tokenizer, recipe.prompt, splits["train"], limits, base.loaded.kind)
    labeller = Rolled(model=base.loaded.model, family=family_of(base.loaded.model))
    codec = Codec.of("fine", labeller.vocabulary)
    write_labels(labeller, examples, folder / "kept" / "store", codec=codec, made_from=sources_of(recipe, base))
    with_key(folder, "labels", "store", str(folder / "kept"))


def with_key(folder: Path, section: str, key: str, value: Any) -> None:
    """Sets a value of the recipe."""
    place = folder / "recipe.yaml"
    recipe = yaml.safe_load(place.read_text())
    recipe[section] = {**recipe[section], key: value}
    place.write_text(yaml.safe_dump(recipe, sort_keys=False))


def words(text: str, row: dict[str, Any]) -> dict[str, Any]:
    """`row` with a sentence before its source."""
    return {**row, "source": f"{text} {row['source']} {row['id']}"}
