"""The parts of benchmarks that need no real model: what they keep, size and print."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import learning, on_policy
from benchmarks.kept import kept
from benchmarks.labels import bytes_a_row, synthetic_batches
from benchmarks.methods import show

from instil.labels.codec import Codec
from instil.labels.draw import Picks


def never() -> dict[str, Any]:
    raise AssertionError("measured twice")


def test_a_row_is_measured_once_for_the_same_settings(tmp_path: Path) -> None:
    assert kept(tmp_path, {"seed": 0, "steps": 3}, lambda: {"rougeL": 1.5}) == {"rougeL": 1.5}
    assert kept(tmp_path, {"steps": 3, "seed": 0}, never) == {"rougeL": 1.5}
    assert kept(tmp_path, {"seed": 1, "steps": 3}, lambda: {"rougeL": 2.5}) == {"rougeL": 2.5}
    with pytest.raises(AssertionError, match="measured twice"):
        kept(tmp_path, {"seed": 2, "steps": 3}, never)
    assert len(list(tmp_path.iterdir())) == 2, "what was not finished is not kept"


def test_finished_trainings_are_not_repeated(tmp_path: Path) -> None:
    """With all rows there, neither benchmark loads a model."""
    for name in ("default", "dense", "top 50"):
        settings = {"labels": name, "seed": 0, "steps": 3, "items": 4}
        kept(tmp_path, settings, lambda name=name: {"labels": name})
    found = [row["labels"] for row in learning.compare(3, 1, 4, tmp_path)]
    assert found == ["default", "dense", "top 50"]
    options = argparse.Namespace(
        runs=tmp_path, seeds=1, share=0.5, steps=3, minutes=6.0, items=2, records=9, divergence="jsd"
    )
    for way, share, one in (("off-policy", 0.0, 40.0), ("on-policy", 0.5, 50.0)):
        accepted = {kind: [one, one + 10] for kind in ("gold", "teacher", "student")}
        settings = on_policy.settings_of(options, way, share, 0)
        kept(tmp_path, settings, lambda way=way, each=accepted: {"line": {"way": way}, "accepted": each})
    *ways, gold, _, _ = on_policy.compare(options)
    assert [row["way"] for row in ways] == ["off-policy", "on-policy"]
    assert gold["difference"] == "gold" and gold["acceptance"] == [10.0, 10.0, 10.0]
    options.steps = None
    assert on_policy.settings_of(options, "on-policy", 0.5, 0)["minutes"] == 6.0


def test_stored_rows_of_random_heads_are_sized(tmp_path: Path) -> None:
    picks: dict[str, list[Picks]] = {}
    batches = list(synthetic_batches(2, picks, vocabulary=3000, width=8))
    assert len(batches) == 2 and set(picks) == {"small", "default", "fine"}
    sizes = {name: bytes_a_row(each, Codec.of(name, 3000)) for name, each in picks.items()}  # type: ignore[arg-type]
    assert 1 < sizes["small"] < sizes["default"] < sizes["fine"] < 200
    codec = Codec.of("fine", 3000)
    entries = sum(int((each.head_CK >= 0).sum() + (each.drawn_CM >= 0).sum()) for each in picks["fine"])
    rows = sum(len(each.head_CK) for each in picks["fine"])
    assert sizes["fine"] < 8 + entries / rows * (codec.id_bits + codec.digits) / 8
    assert torch.equal(batches[0][2]["fine"][0][:, : picks["fine"][0].head_CK.shape[1]], picks["fine"][0].head_CK)


def test_the_table_of_methods_tells_how_long_the_teacher_worked(capsys: pytest.CaptureFixture[str]) -> None:
    score = {"value": 30.0, "low": 29.0, "high": 31.0}
    row = {
        "name": "fine-tuning", "items": 4, "seeds": 1, "score": score, "difference": None, "p_corrected": None,
        "time_ratio": 1.0, "memory_ratio": None, "by_seed": [30.0], "prepare_seconds": 0.0,
    }  # fmt: skip
    taught = row | {"name": "sequence-level", "prepare_seconds": 159.0, "difference": score, "p_corrected": 0.01}
    show("quickstart", [row, json.loads(json.dumps(taught))])
    head, first, second = capsys.readouterr().out.splitlines()[2:5]
    assert "teacher" in head and "min" not in first
    assert second.index("2 min 39 s") + len("2 min 39 s") == head.index("teacher") + len("teacher")
