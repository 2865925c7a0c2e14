"""From a row of any format to a record: which columns, and what their values may be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from instil.data.config import Columns
from instil.data.problems import BadData, brief, closest
from instil.data.records import Record
from instil.data.tables import Table

_OTHER_NAMES = {
    "source": ("text", "document", "article", "input", "body", "question", "prompt", "dialogue", "context"),
    "target": ("summary", "highlights", "output", "answer", "response", "completion", "title", "label", "reference"),
    "id": ("guid", "uid", "key", "name"),
}
_KINDS = {"dict": "an object", "list": "a list", "bytes": "bytes"}


def wanted(columns: Columns) -> set[str]:
    """Every column that `columns` may make use of."""
    targets = columns.target or columns.targets or ("target", "targets")
    return {columns.source, *targets} | ({columns.id} if columns.id else set())


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one table that records are made from. `id` may be None, or missing from rows."""

    id: str | None
    source: str
    targets: tuple[str, ...]
    target_lists_as_text: bool


def layout(columns: Columns, table: Table) -> Layout:
    """Where in `table` the parts of a record stand. Raises `BadData` that names the columns found."""
    _require(columns.source, "source", columns, table)
    targets = columns.target or columns.targets
    if targets is None:
        targets = ("targets",) if "targets" in table.columns and "target" not in table.columns else ("target",)
    for name in targets:
        _require(name, "target" if columns.targets is None else "targets", columns, table)
    if columns.id is not None and columns.id != Columns.model_fields["id"].default:
        _require(columns.id, "id", columns, table)
    lists = table.lists_as_text and (columns.targets is not None or targets == ("targets",))
    return Layout(columns.id, columns.source, targets, lists)


def _require(name: str, role: str, columns: Columns, table: Table) -> None:
    if name in table.columns:
        return
    used = wanted(columns) - {name}
    free = [column for column in table.columns if column and column not in used]
    others = _OTHER_NAMES[role.removesuffix("s") if role == "targets" else role]
    guess = closest(name, free) or next((column for column in free if column.lower() in others), None)
    guessed = f" (did you mean {guess!r}?)" if guess else ""
    found = ", ".join(brief(column) for column in table.columns[:12]) + (", ..." if len(table.columns) > 12 else "")
    remedy = f"set data.columns.{role} to the one that holds it"
    raise BadData(table.name, f"has no column {name!r}{guessed}; found {found}", remedy)


def record_of(row: Mapping[str, object], where: str, layout: Layout) -> Record:
    """`row` as a record, its texts stripped: an empty id, an empty source, no targets for what is empty or null.

    Numbers become their text. Raises `BadData` for values that are no text.
    """
    source = _text(row.get(layout.source), where, layout.source)
    found = (text for name in layout.targets for text in _texts(row.get(name), where, name, layout))
    targets = tuple(dict.fromkeys(text for text in found if text))
    return Record(_text(row.get(layout.id), where, layout.id) if layout.id else "", source, targets)


def _texts(value: object, where: str, column: str, layout: Layout) -> Sequence[str]:
    if layout.target_lists_as_text and isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            remedy = 'write it as a JSON list such as ["first", "second"]'
            raise BadData(where, f"column {column!r} holds a broken list: {brief(value)}", remedy) from None
    if isinstance(value, (list, tuple)):
        return [_text(item, where, column) for item in value]
    return [_text(value, where, column)]


def _text(value: object, where: str, column: str) -> str:
    if isinstance(value, str):
        text = value.replace("\r\n", "\n").strip()
        try:
            text.encode()
        except UnicodeEncodeError as error:
            what = f"column {column!r} holds half a character (surrogate {text[error.start]!a}), which is no text"
            raise BadData(where, what, "mend or delete this record") from None
        return text
    if value is None or value != value:  # not a number: how tables write a missing text
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, Decimal)):
        return str(value)
    kind = _KINDS.get(type(value).__name__, f"a {type(value).__name__}")
    what = f"column {column!r} holds {kind}, not text: {brief(value)}"
    raise BadData(where, what, "make it text, or name another column")
