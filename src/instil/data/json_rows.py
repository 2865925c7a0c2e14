"""Rows of JSON Lines and of JSON arrays, read object by object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instil.data import text_files
from instil.data.problems import BadData, brief, shown
from instil.data.tables import Row

_WHITE = " \t\r\n"
_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of `path`, one a line or as the items of one array. Raises `BadData` that names the line."""
    return _array_rows(path) if _first_character(path) == "[" else _line_rows(path)


def _first_character(path: Path) -> str:
    for block in text_files.blocks(path):
        if stripped := block.lstrip(_WHITE):
            line = stripped.partition("\n")[0].rstrip()
            return "" if _is_complete_list(line) else stripped[0]
    return ""


def _is_complete_list(line: str) -> bool:
    """True for a first line such as `["a", "b"]`, a list of other things than objects."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and bool(value) and not isinstance(value[0], dict)


def _line_rows(path: Path) -> Iterator[Row]:
    name = shown(path)
    for number, line in enumerate(text_files.lines(path), start=1):
        if text := line.strip(_WHITE):
            yield number, _object(text, f"{name}:{number}")


def _object(text: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _invalid(where, error.msg, error.doc, error.pos) from None
    except (ValueError, RecursionError) as error:
        raise BadData(where, f"invalid JSON, {error}", "mend or delete this line") from None
    if not isinstance(value, dict):
        example = 'write one object a line, such as {"source": "...", "target": "..."}'
        raise BadData(where, f"holds {_KINDS[type(value)]}, not an object: {brief(text)}", example)
    return value


def _invalid(where: str, message: str, text: str, position: int) -> BadData:
    message = message[:1].lower() + message[1:].removesuffix(" at").removesuffix(" starting at")
    near = brief(text[max(0, position - 15) : position + 25].replace("\n", " "))
    remedy = "mend or delete this line (one whole object a line, or one array of objects in the file)"
    return BadData(where, f"invalid JSON, {message} near {near}", remedy)


def _array_rows(path: Path) -> Iterator[Row]:
    stream = _Stream(path)
    stream.take("[")
    while stream.peek() != "]":
        number = stream.line
        yield number, stream.item()
        if stream.peek() != "]":
            stream.take(",")
    stream.take("]")
    if rest := stream.peek():
        raise BadData(stream.where, f"more text after the end of the array: {brief(rest)}", "delete it")


class _Stream:
    """A JSON array that is decoded from the front of a sliding buffer."""

    def __init__(self, path: Path) -> None:
        self._name = shown(path)
        self._blocks = text_files.blocks(path)
        self._decoder = json.JSONDecoder()
        self._buffer = ""
        self._at = 0
        self.line = 1

    @property
    def where(self) -> str:
        return f"{self._name}:{self.line}"

    def _more(self) -> bool:
        """Drop what is done and read on; at least doubles what is left, so long items stay cheap."""
        left = len(self._buffer) - self._at
        parts = [self._buffer[self._at :]]
        read = 0
        while read <= left and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            read += len(block)
        self._buffer, self._at = "".join(parts), 0
        return read > 0

    def _forward(self, end: int) -> None:
        self.line += self._buffer.count("\n", self._at, end)
        self._at = end

    def peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            end = self._at
            while end < len(self._buffer) and self._buffer[end] in _WHITE:
                end += 1
            self._forward(end)
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            seen = f"found {brief(found)}" if found else "the file ends"
            raise BadData(self.where, f"invalid JSON array, {seen} where {expected!r} belongs", "mend the file")
        self._forward(self._at + 1)

    def item(self) -> Mapping[str, Any]:
        """The next object of the array."""
        if (found := self.peek()) != "{":
            seen = f"an item that is no object, near {brief(self._buffer[self._at : self._at + 40])}"
            raise BadData(self.where, seen if found else "the array is not closed", "make every item an object {...}")
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error) or not self._more():
                    self._forward(min(error.pos, len(self._buffer)))
                    raise _invalid(self.where, error.msg, error.doc, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise BadData(self.where, f"invalid JSON, {error}", "mend or delete this item") from None
            else:
                self._forward(end)
                assert isinstance(value, dict)
                return value

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - 16
