"""The whole comparison, its summary, its saved outputs, its examples, and every mistake in one line."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from instil.core.errors import ConfigError, DataError, InstilError, ModelError
from instil.data.records import Record
from instil.evaluate.baselines import Lead1
from instil.evaluate.compare import evaluate_systems, total_steps
from instil.evaluate.outputs import load_outputs, save_outputs
from instil.evaluate.results import Comparison

RECORDS = [
    Record(f"r{number}", f"package {number} does the useful thing. It is item {number} of many.", (target,))
    for number, target in enumerate([f"does the useful thing number {number} well" for number in range(40)])
]


class Echo:
    """Writes the target's first words, less `drop` of them at every `period`-th record."""

    bytes = 4000

    def __init__(self, name: str, *, drop: int, period: int = 1, parameters: int = 1000) -> None:
        self.name, self.parameters = name, parameters
        self._drop, self._period, self.asked = drop, period, 0

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        self.asked += len(sources)
        return [self._write(int(source.split()[1])) for source in sources]

    def _write(self, number: int) -> str:
        words = RECORDS[number].targets[0].split()
        return " ".join(words[: len(words) - self._drop if number % self._period == 0 else None])


def _systems() -> dict[str, Echo | Lead1]:
    return {
        "teacher": Echo("t", drop=0),
        "student": Echo("s", drop=2, period=2, parameters=500),
        "student_without_teacher": Echo("w", drop=4),
        "lead1": Lead1(),
    }


ROLES = {"teacher": "teacher", "against": "student_without_teacher"}
LIMITS = {"max_new_tokens": 16, "batch_size": 4, "latency_items": 5}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return evaluate_systems(_systems(), RECORDS, **ROLES, **LIMITS, seed=1)  # type: ignore[arg-type]


def test_numbers(comparison: Comparison) -> None:
    teacher, student = comparison["teacher"], comparison["student"]
    assert teacher.rougeL.value == 100
    # 7 words, 2 dropped at every other record: F1 is 10/12 there.
    assert student.rougeL.value == pytest.approx(100 * (1 + 10 / 12) / 2)
    assert student.rougeL.low < student.rougeL.value < student.rougeL.high
    assert student.retention is not None
    assert student.retention.value == pytest.approx(student.rougeL.value / 100)
    assert student.p_value is not None
    assert student.p_value < 0.001
    assert student.difference is not None
    assert student.difference.low > 0
    assert student.output_words == 6
    assert student.rougeL_histogram[-1] == 20
    assert sum(student.rougeL_histogram) == comparison.n == 40
    assert (teacher.retention, teacher.speedup, comparison["student_without_teacher"].p_value) == (None, None, None)
    assert student.peak_memory_bytes is None or student.peak_memory_bytes >= 4000
    assert student.throughput
    with pytest.raises(KeyError, match="nobody"):
        comparison["nobody"]


def test_summary_has_what_the_report_and_the_checks_read(comparison: Comparison) -> None:
    summary = json.loads(json.dumps(comparison.summary(), allow_nan=False))
    for name in ("teacher", "student", "student_without_teacher", "lead1"):
        assert summary[name]["n"] == 40
        assert set(summary[name]["rougeL"]) == {"value", "low", "high"}
        assert summary[name]["latency_ms_p50"] >= 0
        assert summary[name]["latency_ms_p95"] >= summary[name]["latency_ms_p50"]
        assert summary[name]["parameters"] == comparison[name].parameters
    assert set(summary["retention"]) == set(summary["speedup"]) == {"value", "low", "high"}
    assert summary["p_value"] == summary["student"]["p_value"] < 0.05
    assert summary["signature"].startswith("rougeL|nrefs:1|")
    assert summary["compared"] == {"student": "student", **ROLES}


def test_comparison_survives_json(comparison: Comparison) -> None:
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_examples(comparison: Comparison) -> None:
    examples = comparison.examples
    assert [example.id for example in examples.worst[:5]] == ["r0", "r2", "r4", "r6", "r8"]
    assert len(examples.worst) == len(RECORDS) // 3
    assert [example.id for example in examples.best] == ["r1", "r3", "r5", "r7", "r9"]
    assert [example.id for example in examples.behind] == ["r0", "r2", "r4", "r6", "r8"]
    assert examples.ahead == ()
    assert len({example.id for example in examples.drawn}) == 5
    first = examples.worst[0]
    assert list(first.outputs) == list(first.rougeL) == list(_systems())
    assert (first.source, first.targets) == (RECORDS[0].source, RECORDS[0].targets)


def test_progress_counts_every_step() -> None:
    told: list[float] = []
    evaluate_systems(_systems(), RECORDS, **LIMITS, advance=lambda done, remark: told.append(done))  # type: ignore[arg-type]
    assert told == sorted(told)
    assert told[-1] == total_steps(4, 40, 5) == 4 * 45


def test_interrupted_evaluation_goes_on_and_ends_the_same(tmp_path: Path, comparison: Comparison) -> None:
    class InterruptionError(Exception):
        pass

    def kill(done: float, remark: str) -> None:
        if remark == "student" and done >= 40 + 32:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        evaluate_systems(_systems(), RECORDS, **ROLES, **LIMITS, outputs_folder=tmp_path, advance=kill)  # type: ignore[arg-type]
    assert [len(load_outputs(tmp_path / f"{name}.jsonl")) for name in ("teacher", "student")] == [40, 32]
    systems = _systems()
    again = evaluate_systems(systems, RECORDS, **ROLES, **LIMITS, seed=1, outputs_folder=tmp_path)  # type: ignore[arg-type]
    for name, system in systems.items():
        assert again[name].rougeL == comparison[name].rougeL
        if isinstance(system, Echo):
            timed = 2 * LIMITS["latency_items"] + 3 + 1 + min(LIMITS["latency_items"], LIMITS["batch_size"])
            assert system.asked - timed == {"teacher": 0, "student": 8}.get(name, 40)
    lines = (tmp_path / "student.jsonl").read_text(encoding="utf8").splitlines()
    assert {"id", "source", "targets", "output", "rouge1", "rouge2", "rougeL"} <= set(json.loads(lines[0]))


def test_saved_outputs_of_other_records_are_refused(tmp_path: Path) -> None:
    evaluate_systems({"lead1": Lead1()}, RECORDS, **LIMITS, outputs_folder=tmp_path)  # type: ignore[arg-type]
    path = tmp_path / "lead1.jsonl"
    outputs = load_outputs(path, RECORDS)
    changed = [Record("r0", "another source", RECORDS[0].targets), *RECORDS[1:]]
    for records, reason in (
        (RECORDS[1:] + RECORDS[:1], "'r0', not 'r1'"),
        (RECORDS[:3], "40 outputs for 3"),
        (changed, "another source"),
    ):
        with pytest.raises(DataError, match=reason):
            load_outputs(path, records)
    save_outputs(path, outputs[:2])
    assert load_outputs(path, RECORDS) == outputs[:2]
    path.write_text('{"id": "r0"}\n', encoding="utf8")
    with pytest.raises(DataError, match=r"lead1\.jsonl:1: is not a saved output"):
        load_outputs(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        load_outputs(path)
    assert load_outputs(tmp_path / "none.jsonl") == []


class Fixed:
    """Always writes the same."""

    parameters = bytes = 0

    def __init__(self, output: str, extra: int = 0) -> None:
        self.name, self._output, self._extra = "fixed", output, extra

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        return [self._output] * (len(sources) + self._extra)


def test_one_record_and_empty_outputs() -> None:
    systems = {"teacher": Fixed(""), "student": Fixed("a b"), "plain": Fixed("")}
    found = evaluate_systems(
        systems, [Record("x", "src", ("a b", "c"))], max_new_tokens=4, teacher="teacher", against="plain"
    )
    assert (found["student"].rougeL.value, found["student"].rougeL.low) == (100, 100)
    assert (found["student"].p_value, found["student"].retention) == (1.0, None)
    assert found.remarks == ("teacher left 1 of 1 outputs empty", "plain left 1 of 1 outputs empty")
    assert "nrefs:2" in found.signature
    json.dumps(found.summary(), allow_nan=False)


def test_unicode_targets_are_counted_and_remarked(tmp_path: Path) -> None:
    records = [Record("ж", "источник\u2028текст", ("быстрая лиса",)), Record("2", "второй", ("ленивый пёс",))]
    found = evaluate_systems(
        {"student": Fixed("Быстрая лиса")}, records, max_new_tokens=4, latency_items=0, outputs_folder=tmp_path
    )
    assert found["student"].rougeL.value == 50
    assert "tok:unicode" in found.signature
    assert "unlike published numbers" in found.remarks[0]
    assert [output.id for output in load_outputs(tmp_path / "student.jsonl", records)] == ["ж", "2"]
    assert (found["student"].latency_ms_p50, found["student"].peak_memory_bytes) == (None, None)
    plain = evaluate_systems(
        {"student": Fixed("Быстрая лиса")}, records, max_new_tokens=4, latency_items=0, tokenizer="rouge-score"
    )
    assert plain["student"].rougeL.value == 0


@pytest.mark.parametrize(
    ("systems", "records", "roles", "error", "reason"),
    [
        ({"a": Lead1()}, [], {}, DataError, "list of records is empty"),
        ({"a": Lead1()}, [Record("r1", "s", ())], {}, DataError, "'r1' has no target"),
        ({}, RECORDS, {}, ConfigError, "no system"),
        ({"a": Lead1()}, RECORDS, {"teacher": "b"}, ConfigError, "teacher is 'b'.*choose one of a"),
        ({"retention": Lead1()}, RECORDS, {}, ConfigError, "cannot be called 'retention'"),
        ({"../a": Lead1()}, RECORDS, {}, ConfigError, "cannot be called"),
        ({"a": Fixed("x", extra=1)}, RECORDS, {}, ModelError, "17 outputs for 16 sources"),
    ],
)
def test_mistakes_end_in_one_line(
    systems: dict[str, Lead1], records: list[Record], roles: dict[str, str], error: type[InstilError], reason: str
) -> None:
    with pytest.raises(error, match=reason) as raised:
        evaluate_systems(systems, records, max_new_tokens=4, batch_size=4, latency_items=0, **roles)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_mean_is_over_items_not_batches() -> None:
    records = RECORDS[:5]
    system = Echo("s", drop=3, period=2)
    scores = [
        evaluate_systems({"s": system}, records, max_new_tokens=4, batch_size=size, latency_items=0)
        for size in (1, 2, 5)
    ]
    assert math.isclose(scores[0]["s"].rougeL.value, scores[1]["s"].rougeL.value)
    assert scores[1]["s"].rougeL == scores[2]["s"].rougeL
