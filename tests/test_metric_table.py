"""The terminal's table of metrics."""

import io

from rich.console import Console

from instil.data.records import Record
from instil.evaluate.baselines import FirstWords, Lead1
from instil.evaluate.compare import evaluate_systems
from instil.run.report.metric_table import metric_table

RECORDS = [Record(str(i), f"Tool {i} has 12 parts. More follows.", (f"tool {i} of parts",)) for i in range(12)]


def shown(*metrics: str) -> str:
    found = evaluate_systems(
        {"student": Lead1(), "other": FirstWords(2)}, RECORDS, max_new_tokens=4, latency_items=0, against="other",
        metrics=metrics,  # type: ignore[arg-type]
    )  # fmt: skip
    table = metric_table(found)
    if table is None:
        return ""
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    return out.getvalue()


def test_values_intervals_and_what_differs() -> None:
    text = shown("rougeL", "chrf", "length_ratio", "unsupported_numbers")
    assert "rougeL" not in text, "the main table has it"
    assert "chrf, % ↑" in text and "unsupported numbers, % ↓" in text and "length ratio, ratio" in text
    assert "* differs from other: p < 0.05 after Holm" in text
    row = next(line for line in text.splitlines() if "length ratio" in line)
    assert "1.25*" in row and "0.50" in row
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_to_add() -> None:
    assert shown("rouge1") == ""
