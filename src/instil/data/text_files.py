"""UTF-8 text out of plain or gzip files, a block at a time; what is broken is named by its line and byte."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from instil.data.problems import BadData, shown

BLOCK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_bytes(path: Path) -> IO[bytes]:
    """`path` for reading, decompressed where its name or its first bytes say gzip."""
    try:
        file = path.open("rb")
        if path.suffix.lower() != ".gz" and file.read(2) != _GZIP_MAGIC:
            file.seek(0)
            return file
        file.close()
        return cast(IO[bytes], gzip.open(path, "rb"))
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> BadData:
    """The operating system's refusal to read `path`."""
    reason = (error.strerror or str(error)).lower()
    return BadData(shown(path), f"cannot be read: {reason}", "check the path, its permissions and the disk")


def blocks(path: Path) -> Iterator[str]:
    """The text of `path` in pieces of about a megabyte, without byte order mark.

    Raises `BadData` for bytes that are no UTF-8, for NUL bytes, and for torn or false gzip files.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = line = 0
    with open_bytes(path) as file:
        while True:
            block = _read(file, path, line + 1)
            if offset == 0 and block[:2] in _UTF16_MARKS:
                raise _other_encoding(path, "is UTF-16 text, not UTF-8", "UTF-16")
            _refuse_nul(block, path, offset, line)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = offset - pending + error.start
                number = line + 1 + error.object[: error.start].count(b"\n")
                value = error.object[error.start]
                what = f"is not UTF-8 text: byte 0x{value:02x} at byte offset {place} (line {number})"
                raise _other_encoding(path, what, "WINDOWS-1252") from None
            if text:
                yield text
            if not block:
                return
            offset += len(block)
            line += block.count(b"\n")


def _read(file: IO[bytes], path: Path, line: int) -> bytes:
    try:
        return file.read(BLOCK_BYTES)
    except (EOFError, zlib.error):
        what = f"is a torn gzip file, its data end or break after line {line}"
        raise BadData(shown(path), what, "copy or download it again") from None
    except gzip.BadGzipFile:
        raise BadData(shown(path), "is no whole gzip file", "fetch it again, or drop .gz from its name") from None
    except OSError as error:
        raise unreadable(path, error) from error


def _refuse_nul(block: bytes, path: Path, offset: int, line: int) -> None:
    at = block.find(b"\0")
    if at >= 0:
        number = line + 1 + block.count(b"\n", 0, at)
        what = f"has a NUL byte at byte offset {offset + at} (line {number}), so it is UTF-16, binary or damaged"
        raise _other_encoding(path, what, "UTF-16")


def _other_encoding(path: Path, what: str, encoding: str) -> BadData:
    stem = path.name.removesuffix(".gz")
    remedy = f"convert it, for instance with: iconv -f {encoding} -t UTF-8 {stem} > utf8-{stem}"
    return BadData(shown(path), what, remedy)


def lines(path: Path) -> Iterator[str]:
    """The lines of `path`, each with its line end."""
    parts: list[str] = []
    for block in blocks(path):
        *whole, rest = block.split("\n")
        for text in whole:
            parts.append(text)
            yield "".join(parts) + "\n"
            parts.clear()
        parts.append(rest)
    if last := "".join(parts):
        yield last
