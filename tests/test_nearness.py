"""How near stored labels come: zero for labels that lost nothing, falling with the batch for drawn ones, and a command
that tells it for one's own data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from command import instil
from instil.labels.codec import Codec
from instil.labels.teacher import Teacher
from instil.models.family import family_of
from instil.models.students.depth import keep_layers
from instil.train.nearness import (
    Remembering,
    Rival,
    degrees,
    dense_gradients,
    label_gradients,
    nearness,
    stored_batches,
    through,
    write_stores,
)
from project import project
from test_labels import make_examples

ROWS = 64


@pytest.mark.parametrize("name", ["llama", "t5", "gemma3"])
def test_dense_and_stored_gradients_agree_where_everything_is_stored(name: str) -> None:
    """The analytic gradient of this file is the product's own objective, given every id."""
    model = tiny.tiny_model(name)
    family = family_of(model, pad_id=tiny.PAD)
    rows = family.rows(model, family.collate(make_examples(24)))
    assert len(rows.target_N) > 64  # More than a chunk of rows.
    probs_NV = torch.rand(len(rows.target_N), rows.head.n_valid).softmax(-1)
    ids_NV = torch.arange(rows.head.n_valid).expand(probs_NV.shape)
    for one, other in zip(dense_gradients(rows, probs_NV), label_gradients(rows, ids_NV, probs_NV), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_angles_are_in_degrees() -> None:
    assert degrees(0.0, 1.0, 4.0) == 90
    assert degrees(2.0, 1.0, 4.0) == 0
    assert degrees(-1.0, 1.0, 1.0) == 180


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_finer_labels_are_nearer_and_draws_average_out(name: str, tmp_path: Path) -> None:
    model = tiny.tiny_model(name)
    teacher = Remembering(model=model, family=family_of(model, pad_id=tiny.PAD))
    student = keep_layers(model, [0])
    examples = make_examples(160)
    everything = Codec(vocabulary=teacher.vocabulary, head=teacher.vocabulary, digits=20)
    codecs = {"all": everything, "default": Codec.of("default", teacher.vocabulary)}
    codecs["fine"] = Codec.of("fine", teacher.vocabulary)
    stores = write_stores(teacher, examples, codecs, tmp_path)
    family = family_of(student, pad_id=tiny.PAD)
    batches = list(stored_batches(student, family, teacher, examples, stores, rows=ROWS))
    assert len(batches) >= 6 and all(len(own.target_N) == ROWS for own, _, _ in batches)
    top = Rival(name="top", bytes_per_token=1, towards=lambda p_NV: p_NV * (p_NV == p_NV.amax(-1, keepdim=True)))
    found = nearness(batches, through(student), (top,))
    mean = {name: sum(each.batches) / len(each.batches) for name, each in found.items()}
    assert mean["all"] < 0.1 < mean["fine"] < mean["default"]
    left = {name: each.whole / mean[name] for name, each in found.items()}
    assert left["default"] < 0.9 and left["fine"] < 0.9, "noise averages out"
    assert left["top"] > max(left["default"], left["fine"]), "what is cut off does not"


def test_a_remembering_teacher_passes_once(tmp_path: Path) -> None:
    passes: list[int] = []
    model = tiny.tiny_model("llama")
    model.model.register_forward_hook(lambda *_: passes.append(1))
    family = family_of(model, pad_id=tiny.PAD)
    codecs = {str(head): Codec.top(head, tiny.PADDED_VOCABULARY) for head in (2, 4, 8)}
    counts = []
    for kind in (Teacher, Remembering):
        passes.clear()
        write_stores(kind(model=model, family=family), make_examples(4), codecs, tmp_path / kind.__name__)
        counts.append(len(passes))
    assert counts == [3, 1]


def test_the_command_measures_the_recipes_own_labels(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=80, teacher={"teach": None}, labels={"targets": "gold"})
    ended = instil("label", "recipe.yaml", "--measure", "512", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    lines = {line["setting"]: line for line in json.loads(ended.out)["rows"]}
    assert set(lines) == {"small", "default", "fine", "head: 12"}
    assert lines["small"]["bytes_per_token"] < lines["default"]["bytes_per_token"] < lines["fine"]["bytes_per_token"]
    assert lines["small"]["angle_512"] > lines["fine"]["angle_512"] > 0
    assert "degrees from the dense gradient" in instil("label", "recipe.yaml", "--measure", "512", cwd=folder).out


def test_too_few_rows_to_measure_are_named(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=20, teacher={"teach": None}, labels={"targets": "gold"})
    ended = instil("label", "recipe.yaml", "--measure", "512", cwd=folder)
    assert ended.code == 2 and "fewer than 512 target tokens" in ended.err
