"""A first look at the user's own file: its columns, which of them is read and which written, and how long texts are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from instil.core.errors import ConfigError
from instil.data import hub
from instil.data.config import DataConfig
from instil.data.formats import open_table
from instil.data.problems import BadData, brief
from instil.data.sources import BUILT_IN, Plan, plan
from instil.data.tables import Table

MOST_RECORDS = 2000
_TOKENS_A_WORD = 1.4
_LETTERS_A_TOKEN = 4.0
_TOKENS_BEYOND_ASCII = 1.5
_SOURCE_NAMES = (
    "source", "article", "document", "text", "context", "dialogue", "body", "content", "input", "question", "prompt",
)  # fmt: skip
_TARGET_NAMES = (
    "target", "targets", "summary", "summaries", "highlights", "abstract", "answer", "answers", "translation",
    "output", "response", "completion", "reference", "references", "title", "headline", "label",
)  # fmt: skip
_NO_TEXT = ("id", "guid", "uid", "uuid", "key", "url", "link", "date", "split", "index")
_ALIKE = 1.3
"""Columns whose mean lengths differ by less than this factor are taken for source and target in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSeen:
    """One column. Lengths are those of its filled values, of the first text where a value lists several; tokens are
    estimated. `textual`: mostly strings, not numbers. `lists_in_cells`: its values are JSON lists written as text."""

    name: str
    filled: int = 0
    examples: tuple[str, ...] = ()
    textual: bool = True
    unique: bool = True
    lists_in_cells: bool = False
    words_mean: float = 0.0
    words_p95: int = 0
    tokens_mean: float = 0.0
    tokens_p95: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the first `records` records show. `whole`: there are no more. `source` and `target` are guesses; None when
    nothing fits. `place` is how a recipe names the data, `given` the splits that it brings."""

    place: str
    records: int
    whole: bool
    columns: tuple[ColumnSeen, ...]
    source: str | None = None
    target: str | None = None
    given: frozenset[str] = frozenset({"train"})

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order of the file."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> ColumnSeen:
        """The column `name`. Raises `KeyError` for one that is not there."""
        return {column.name: column for column in self.columns}[name]


def inspect_data(path: Path) -> Seen:
    """Look at the first records (at most `MOST_RECORDS`) of a file, or of a folder's training files.

    `path` is relative to the current folder, as in a recipe. Raises `BadData` for what is missing, unreadable or
    broken, `ConfigError` for a hub data set.
    """
    place = place_of(path)
    if hub.is_hub(place):
        remedy = "give a file of yours, then write this into data.source of the recipe, and its columns"
        raise ConfigError(f"{place}: instil init looks into local files only; {remedy}")
    found = plan(DataConfig(source=place), Path())
    rows, names, as_cells = _read(found)
    whole, rows = len(rows) <= MOST_RECORDS, rows[:MOST_RECORDS]
    columns = tuple(_look(name, [row.get(name) for row in rows], as_cells) for name in names if name)
    if not columns:
        raise BadData(place, "has no named columns", 'write records such as {"source": "...", "target": "..."}')
    source, target = guess_columns(columns)
    return Seen(place, len(rows), whole, columns, source, target, frozenset(found.given))


def place_of(path: Path) -> str:
    """`path` as a recipe names it: relative where it lies below the current folder."""
    given = str(path)
    relative = os.path.relpath(path) if path.is_absolute() else given
    if relative.startswith("..") and path.is_absolute():
        return given
    # A file whose name means something else in a recipe goes by its whole path.
    special = relative in BUILT_IN or hub.is_hub(relative) or relative.startswith("~")
    return given if special else relative


def _read(found: Plan) -> tuple[list[Mapping[str, object]], tuple[str, ...], bool]:
    """One record more than is looked at, the columns, and whether lists stand in cells."""
    tables = [
        _whole_table(origin.file) for origin in found.origins if origin.split == "train" and origin.file is not None
    ]
    rows = list(islice(_rows(tables), MOST_RECORDS + 1))
    return rows, tables[0].columns, tables[0].lists_as_text


def _whole_table(file: Path) -> Table:
    """All columns of `file`; a Parquet file reads only those that it is asked for."""
    return open_table(file, open_table(file, ()).columns)


def _rows(tables: Sequence[Table]) -> Iterator[Mapping[str, object]]:
    for table in tables:
        yield from (row for _, row in table.rows)


def _look(name: str, values: Sequence[object], as_cells: bool) -> ColumnSeen:
    texts = [text for value in values if (text := _first_text(value))]
    if not texts:
        return ColumnSeen(name=name, textual=False, unique=False)
    words = [len(text.split()) for text in texts]
    tokens = [estimated_tokens(text) for text in texts]
    return ColumnSeen(
        name=name,
        filled=len(texts),
        examples=tuple(brief(" ".join(text.split()), 60) for text in texts[:2]),
        textual=2 * sum(_is_textual(value) for value in values) > len(texts),
        unique=len(set(texts)) == len(texts),
        lists_in_cells=as_cells and all(_is_list(text) for text in texts),
        words_mean=sum(words) / len(words),
        words_p95=round(_p95(words)),
        tokens_mean=sum(tokens) / len(tokens),
        tokens_p95=round(_p95(tokens)),
    )


def _first_text(value: object) -> str:
    """The text that a training example would take from `value`; empty where there is none."""
    if isinstance(value, (list, tuple)):
        return next((text for item in value if (text := _first_text(item))), "")
    if value is None or value != value or isinstance(value, (dict, bytes)):
        return ""
    return str(value).strip()


def _is_textual(value: object) -> bool:
    text = _first_text(value)
    if not text or isinstance(value, (int, float)):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _is_list(text: str) -> bool:
    try:
        return text.startswith("[") and isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def _p95(values: Sequence[float]) -> float:
    """The value that 95% of `values` do not exceed."""
    return sorted(values)[(len(values) * 95 + 99) // 100 - 1]


def estimated_tokens(text: str) -> float:
    """About how many tokens `text` has, rather too many: 1.4 a word, or by its characters where words are long or not
    set apart. Checked by eye against the tokenizer of SmolLM2."""
    beyond_ascii = 0 if text.isascii() else sum(not character.isascii() for character in text)
    by_letters = (len(text) - beyond_ascii) / _LETTERS_A_TOKEN + _TOKENS_BEYOND_ASCII * beyond_ascii
    return max(_TOKENS_A_WORD * len(text.split()), by_letters)


def guess_columns(
    columns: Sequence[ColumnSeen], *, source: str | None = None, target: str | None = None
) -> tuple[str | None, str | None]:
    """The columns to read and to write, as far as they are not given: by their usual names, else the longest text and
    the next longest; None where nothing is left."""
    rest = [c for c in columns if c.filled and c.name not in (source, target) and c.name.lower() not in _NO_TEXT]
    free = [column for column in rest if column.textual]
    ranked = sorted(free, key=lambda column: -column.words_mean)
    if len(ranked) > 1 and ranked[0].words_mean < _ALIKE * ranked[1].words_mean:
        ranked[:2] = sorted(ranked[:2], key=free.index)
    if source is None and (found := _named(free, _SOURCE_NAMES)):
        source = found.name
    if target is None and (found := _named([c for c in rest if c.name != source], _TARGET_NAMES)):
        target = found.name
    left = [column.name for column in ranked if column.name not in (source, target)]
    if source is None and left:
        source = left.pop(0)
    if target is None and left:
        target = left.pop(0)
    return source, target


def _named(columns: Sequence[ColumnSeen], names: Sequence[str]) -> ColumnSeen | None:
    """The longest of the columns that are called one of `names`; `source` and `target` before all."""
    called = [column for column in columns if column.name.lower() in names]
    exact = next((column for column in called if column.name.lower() == names[0]), None)
    return exact or max(called, key=lambda column: column.words_mean, default=None)
