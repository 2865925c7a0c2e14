"""Odd sources: nothing crashes, whatever the system; what is refused is refused in one line."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import tiny
from command import instil
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.evaluate.baselines import baselines_of
from instil.evaluate.given import GivenOutputs
from instil.evaluate.probe import PROBES, probe_systems
from instil.models.generation import TransformersGenerator
from project import project


@pytest.mark.parametrize("name", ["t5", "llama", "gpt2", "bart"])
def test_no_model_crashes(name: str) -> None:
    kind = "encoder-decoder" if name in tiny.ENCODER_DECODER else "decoder-only"
    model, tokenizer = tiny.tiny_model(name), tiny.tiny_tokenizer(kind)
    system = TransformersGenerator(model, tokenizer, Prompt(text="sum: "), name=name, max_source_tokens=64)
    found = {one.probe: one for one in probe_systems({name: system}, max_new_tokens=4)}
    assert set(found) == set(PROBES)
    assert {one.outcome for one in found.values()} <= {"answered", "empty"}


def test_without_a_prompt_or_a_limit_sources_are_refused_in_one_line() -> None:
    model, tokenizer = tiny.tiny_model("llama"), tiny.tiny_tokenizer("decoder-only")
    system = TransformersGenerator(model, tokenizer, Prompt(), name="bare", max_source_tokens=None)
    found = {one.probe: one for one in probe_systems({"bare": system}, max_new_tokens=4)}
    assert found["empty"].outcome == found["over-long"].outcome == "refused"
    assert "gives no tokens" in found["empty"].reason
    assert found["one word"].outcome in ("answered", "empty")


def test_baselines_answer_and_files_are_left_out() -> None:
    systems = {**baselines_of([Record("1", "a source", ("a target",))]), "file": GivenOutputs("file", {})}
    found = probe_systems(systems, max_new_tokens=4)
    assert {one.system for one in found} == {"lead1", "first_words", "nearest_neighbour"}
    assert {one.outcome for one in found} == {"answered", "empty"}


def test_a_crash_is_told_and_the_next_probe_follows() -> None:
    class Brittle:
        name, parameters, bytes = "brittle", 1, 1

        def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
            return [str(1 / len(source)) for source in sources]

    found = probe_systems({"brittle": Brittle()}, max_new_tokens=4)
    assert (found[0].outcome, found[0].reason) == ("crashed", "ZeroDivisionError: division by zero")
    assert all(one.outcome == "answered" for one in found[1:])


def test_the_command(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=60, teacher={"teach": None}, labels={}, student=None, distil=None)
    ended = instil("evaluate", "recipe.yaml", "--probe", cwd=folder)
    assert ended.code == 0, ended.err
    assert "over-long" in ended.out and "crashed" not in ended.out
    (kept,) = folder.glob("runs/*/probe.json")
    assert len(json.loads(kept.read_text(encoding="utf8"))) == 4 * len(PROBES)
