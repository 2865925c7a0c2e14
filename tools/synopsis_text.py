"""Reading an apt `Translation-en` index, and turning Debian's description markup into clean text."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from instil.core.errors import DataError
from synopsis_rules import is_about_siblings, is_noise, is_own_paragraph

_BULLET = re.compile(r"(?:[*+•·o]|-{1,2})\s+(?=\S)")
_INDEXED = re.compile(r"(?:\d{1,2}[.)]|\([a-z0-9]\))\s")
_WRAPPED_AT = 60
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Dr|Mr|Mrs|St|Inc|resp|approx|al|aka|a\.k\.a|no)|\b[A-Z])\.$")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s+[\"'(\[]*[A-Z0-9])")
_WORD = re.compile(r"[^\W_]+")
_OWN_PARAGRAPH_WORDS = 30


@dataclass(frozen=True, slots=True)
class Stanza:
    """One entry of the index: the package's name, its one-line synopsis, and the raw lines of its description."""

    package: str
    synopsis: str
    lines: tuple[str, ...]


def read_index(path: Path) -> str:
    """The text of an index file, plain or packed as lz4 (by `lz4` or apt's own helper), gz, bz2 or xz."""
    unpack: dict[str, Callable[[bytes], bytes]]
    unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
    if not path.is_file():
        raise DataError(f"no index file at {path}; run with --update, or give one by --index")
    if path.suffix in unpack:
        return unpack[path.suffix](path.read_bytes()).decode()
    if path.suffix != ".lz4":
        return path.read_text(encoding="utf-8")
    helper = Path("/usr/lib/apt/apt-helper")
    if helper.exists():
        command = [str(helper), "cat-file", str(path)]
    elif shutil.which("lz4"):
        command = ["lz4", "-dc", str(path)]
    else:
        raise DataError(f"{path} is packed with lz4; install lz4, or give an unpacked file by --index")
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()


def stanzas(text: str) -> Iterator[Stanza]:
    """The entries of an index that have an English description, in the order of the file."""
    for block in text.split("\n\n"):
        package, synopsis, lines = "", None, []
        for line in block.splitlines():
            if line.startswith("Package: "):
                package = line[9:].strip()
            elif line.startswith("Description-en: "):
                synopsis = line[16:]
            elif synopsis is not None and line.startswith(" "):
                lines.append(line[1:])
        if package and synopsis is not None:
            yield Stanza(package, tidy(synopsis), tuple(lines))


def tidy(text: str) -> str:
    """`text` in NFC on one line: no control characters, runs of white space as one space."""
    composed = unicodedata.normalize("NFC", text)
    printable = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp", "Co") else c for c in composed)
    return " ".join(printable.split())


def words(text: str) -> list[str]:
    """The lower-case words of `text` (letters and digits; everything else separates)."""
    return _WORD.findall(text.lower())


def _item(line: str) -> str | None:
    """The text of a list item with its mark normalised, or None when `line` is not one."""
    stripped = line.strip()
    if mark := _BULLET.match(stripped):
        return "- " + stripped[mark.end() :]
    return stripped if _INDEXED.match(stripped) else None


def paragraphs(lines: tuple[str, ...]) -> list[list[str]]:
    """Debian's description markup as paragraphs of logical lines: wrapped lines joined, each list item on its own.

    " ." parts paragraphs; a line that starts with one space flows, one with two or more stands as written.
    """
    result: list[list[str]] = [[]]
    indent, in_item, previous = 0, False, ""
    for line in lines:
        if line.strip() in (".", ""):
            result.append([])
            in_item = False
            continue
        depth, item = len(line) - len(line.lstrip()), _item(line)
        joins_item = in_item and depth > indent
        joins_text = not in_item and (depth == 0 or (len(previous) >= _WRAPPED_AT and depth >= indent))
        if item is None and result[-1] and (joins_item or joins_text):
            result[-1][-1] += " " + tidy(line)
        else:
            result[-1].append(tidy(item or line))
            indent, in_item = depth, item is not None
        previous = line
    return [paragraph for paragraph in result if paragraph]


def sentences(text: str) -> list[str]:
    """`text` cut after `.`, `!` or `?` before a capital or a digit, and at line ends, not after an abbreviation."""
    found = []
    for line in text.splitlines():
        start = 0
        for end in _SENTENCE_END.finditer(line):
            if not _ABBREVIATION.search(line[start : end.end()]):
                found.append(line[start : end.end()].strip())
                start = end.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def first_sentence(text: str) -> str:
    """The first sentence of `text`, the whole text when it has only one; "" for an empty text."""
    return next(iter(sentences(text)), "")


def _without_siblings(line: str, *, opens: bool) -> str:
    found = sentences(line)
    kept = [s for at, s in enumerate(found) if (opens and at == 0) or not is_about_siblings(s)]
    return " ".join(kept)


def cut_boilerplate(blocks: list[list[str]]) -> tuple[list[list[str]], int]:
    """`blocks` without what speaks of the packaging instead of the software, and how many pieces went.

    Out go sentences about sibling packages and kinds of files, lines with only a home page, and a short last
    paragraph "This package contains ...". The very first sentence stays: it often names the software.
    """
    kept: list[list[str]] = []
    cuts = 0
    for block in blocks:
        told = [line for line in block if not is_noise(line)]
        opens = [not kept and at == 0 for at in range(len(told))]
        lines = [new for line, first in zip(told, opens, strict=True) if (new := _without_siblings(line, opens=first))]
        cuts += lines != block
        if lines:
            kept.append(lines)
    while len(kept) > 1 and is_own_paragraph(kept[-1][0]) and len(words(" ".join(kept[-1]))) <= _OWN_PARAGRAPH_WORDS:
        kept.pop()
        cuts += 1
    return kept, cuts


def body_of(blocks: list[list[str]]) -> str:
    """Paragraphs as one text: a newline between the lines of a paragraph, a blank line between paragraphs."""
    return "\n\n".join("\n".join(block) for block in blocks)
