"""Builds the `synopsis` corpus (a package's description -> its one-line synopsis) from Debian 12's English index.

    python tools/build_synopsis.py [--update] [--index FILE] [--packages FILE] [--out FOLDER]

Only the `main` section is read. The same indexes give the same records in the same order.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from instil.core.errors import DataError, InstilError
from instil.core.publish import write_bytes, write_text
from synopsis_rules import DASH, MIN_SYNOPSIS_WORDS, is_software, stem, without_tail
from synopsis_text import Stanza, body_of, cut_boilerplate, first_sentence, paragraphs, read_index, stanzas, words

LISTS = Path("/var/lib/apt/lists")
PATTERN = "*_dists_bookworm_main_i18n_Translation-en*"
OUT = Path(__file__).parents[1] / "src/instil/data/synopsis"

TEST, VALIDATION = 900, 400
BODY_WORDS, SYNOPSIS_WORDS = (40, 300), (MIN_SYNOPSIS_WORDS, 20)
NEAR_SHINGLE, NEAR_SHARE = 5, 0.25
LEAK_SHINGLE, LEAK_SHARE = 8, 0.5
PREFIX_OF_MANY = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """One kept example. `id` is the package's name, `source` its cleaned description, `target` its synopsis."""

    id: str
    source: str
    target: str

    def line(self) -> str:
        return json.dumps({"id": self.id, "source": self.source, "target": self.target}, ensure_ascii=False) + "\n"


class Log(list[tuple[str, int]]):
    """The account of a build: (what was done, pairs left after it)."""

    def note(self, what: str, left: int) -> None:
        self.append((what, left))
        print(f"{left:>7}  {what}", file=sys.stderr)


def find_index(lists: Path = LISTS) -> Path:
    """The newest index under apt's lists. Raises `DataError` when there is none."""
    found = [path for path in lists.glob(PATTERN) if "security" not in path.name and "updates" not in path.name]
    if not found:
        raise DataError(f"no {PATTERN} under {lists}; run with --update on Debian 12, or give a file by --index")
    return max(found, key=lambda path: (path.stat().st_mtime, path.name))


def release_of(index: Path) -> dict[str, str]:
    """Version and date of the archive release that lists `index`, from the InRelease beside it; {} without one."""
    release = index.with_name(index.name.split("_main_i18n_")[0] + "_InRelease")
    if not release.is_file():
        return {}
    fields = re.findall(r"^(Version|Codename|Date): (.*)$", release.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower(): value for name, value in fields}


def rank(pair: Pair) -> tuple[int, int, str]:
    """Order of preference among siblings: no suffix first, then the shorter name."""
    return stem(pair.id)[1], len(pair.id), pair.id


def find_packages(index: Path) -> Path | None:
    """The `Packages` index beside `index`, which names the source packages; None without one."""
    return next(iter(sorted(index.parent.glob(index.name.split("_i18n_")[0] + "_binary-*_Packages*"))), None)


def sources_of(text: str) -> dict[str, str]:
    """Binary package's name -> source package's name, from the text of a `Packages` index."""
    sources, package = {}, ""
    for line in text.splitlines():
        if line.startswith("Package: "):
            package = line[9:].strip()
            sources[package] = package
        elif line.startswith("Source: "):
            sources[package] = line[8:].split()[0]
    return sources


def pairs_of(entries: Iterable[Stanza], log: Log) -> list[Pair]:
    """The entries whose synopsis and cleaned description have the asked lengths, as pairs."""
    kept, why, cuts, total = [], Counter[str](), 0, 0
    for entry in entries:
        total += 1
        blocks, cut = cut_boilerplate(paragraphs(entry.lines))
        pair = Pair(entry.package, body_of(blocks), without_tail(entry.synopsis))
        if not is_software(entry.package, entry.synopsis, pair.source):
            why["kind"] += 1
        elif not SYNOPSIS_WORDS[0] <= len(pair.target.split()) <= SYNOPSIS_WORDS[1]:
            why["synopsis"] += 1
        elif not BODY_WORDS[0] <= len(pair.source.split()) <= BODY_WORDS[1]:
            why["body"] += 1
        else:
            cuts += cut > 0
            kept.append(pair)
    log.note("entries with an English description in the index", total)
    left = total - why["kind"]
    log.note("no documentation, debug symbols, cross tools, translations, transitional or meta packages", left)
    log.note("synopsis of {} to {} words".format(*SYNOPSIS_WORDS), left := left - why["synopsis"])
    log.note("cleaned body of {} to {} words".format(*BODY_WORDS), left - why["body"])
    log.note("  of these, with boilerplate about packaging cut from the body", cuts)
    return sorted(kept, key=rank)


def unique_by(pairs: list[Pair], key: Callable[[Pair], object]) -> list[Pair]:
    """The first pair of each value of `key`, in the given order."""
    seen: dict[object, Pair] = {}
    for pair in pairs:
        seen.setdefault(key(pair), pair)
    return list(seen.values())


def stem_of(pair: Pair) -> str:
    """The guess at a pair's source package that its name alone allows."""
    return stem(pair.id)[0]


def opening(pair: Pair) -> str:
    """The words of a pair's first sentence: what the split hashes."""
    return " ".join(words(first_sentence(pair.source)))


def headline(pair: Pair) -> object:
    """The words of a synopsis before its " - ", which siblings share ("Maven - tests"), else its package."""
    head, dash, _ = re.sub(rf"\s+{DASH}+\s+", "\0", pair.target).partition("\0")
    return tuple(words(head)) if dash and len(words(head)) > 1 else pair.id


def without_common_prefixes(pairs: list[Pair]) -> list[Pair]:
    """`pairs` without those whose synopsis is how `PREFIX_OF_MANY` or more other synopses begin."""
    begins = Counter[tuple[str, ...]]()
    for pair in pairs:
        target = tuple(words(pair.target))
        begins.update(target[:length] for length in range(1, len(target)))
    return [pair for pair in pairs if begins[tuple(words(pair.target))] < PREFIX_OF_MANY]


def shingles(text: str, size: int) -> set[int]:
    """Hashes (within one process) of the runs of `size` words in `text`."""
    found = words(text)
    return {hash(tuple(found[i : i + size])) for i in range(len(found) - size + 1)}


class Overlaps:
    """An inverted index of shingles that finds the added text which shares most with another."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._postings: defaultdict[int, list[int]] = defaultdict(list)
        self._counts: list[int] = []

    def add(self, text: str) -> None:
        grams = shingles(text, self.size)
        for gram in grams:
            self._postings[gram].append(len(self._counts))
        self._counts.append(len(grams))

    def share(self, text: str) -> float:
        """The largest share, over the added texts, of the shorter text's shingles that both have (0 to 1)."""
        grams = shingles(text, self.size)
        both = Counter(text for gram in grams for text in self._postings.get(gram, ()))
        return max((n / max(1, min(len(grams), self._counts[text])) for text, n in both.items()), default=0.0)


def without_near(pairs: list[Pair]) -> list[Pair]:
    """`pairs` without those that share a quarter of the shorter body's word 5-grams with an earlier one."""
    index, kept = Overlaps(NEAR_SHINGLE), []
    for pair in pairs:
        if index.share(pair.source) < NEAR_SHARE:
            index.add(pair.source)
            kept.append(pair)
    return kept


def one_a_source(pairs: list[Pair], sources: Mapping[str, str]) -> list[Pair]:
    """One pair a source package: the one that bears its name, else the first by `rank`."""
    ordered = sorted(pairs, key=lambda pair: (sources.get(pair.id) != pair.id, rank(pair)))
    return unique_by(ordered, lambda pair: sources.get(pair.id, pair.id))


def select(entries: Iterable[Stanza], log: Log, sources: Mapping[str, str] | None = None) -> list[Pair]:
    """The cleaned pairs of an index, in order of preference; every step is noted in `log`.

    `sources` names each package's source package; a package that it lacks goes by its name alone.
    """
    steps: list[tuple[str, Callable[[list[Pair]], list[Pair]]]] = [
        ("one entry a body", lambda pairs: unique_by(pairs, lambda pair: tuple(words(pair.source)))),
        ("one entry a first sentence", lambda pairs: unique_by(pairs, opening)),
        ("one entry a source package", lambda pairs: one_a_source(pairs, sources or {})),
        ("one entry a stem (foo, foo-dev, libfoo1, python3-foo)", lambda pairs: unique_by(pairs, stem_of)),
        ('one entry a synopsis up to its " - "', lambda pairs: unique_by(pairs, headline)),
        ("one entry a synopsis", lambda pairs: unique_by(pairs, lambda pair: tuple(words(pair.target)))),
        (f"no synopsis that begins {PREFIX_OF_MANY} or more others", without_common_prefixes),
        (f"no body sharing {NEAR_SHARE:.0%} of its word {NEAR_SHINGLE}-grams with another", without_near),
    ]
    pairs = pairs_of(entries, log)
    for what, step in steps:
        pairs = step(pairs)
        log.note(what, len(pairs))
    return pairs


def split(pairs: list[Pair], log: Log, *, test: int = TEST, validation: int = VALIDATION) -> dict[str, list[Pair]]:
    """Splits by the hash of the first sentence: the lowest are test, the next validation, the rest train.

    Train loses what shares half of its word 8-grams with an example of the other two.
    """
    ordered = sorted(pairs, key=lambda pair: hashlib.sha256(opening(pair).encode()).hexdigest())
    held = ordered[: test + validation]
    index = Overlaps(LEAK_SHINGLE)
    for pair in held:
        index.add(pair.source)
    train = [pair for pair in ordered[test + validation :] if index.share(pair.source) < LEAK_SHARE]
    log.note(f"train shares no half of word {LEAK_SHINGLE}-grams with validation or test", len(train) + len(held))
    return {"train": train, "validation": held[test:], "test": held[:test]}


def packed(pairs: list[Pair]) -> bytes:
    """Pairs as gzipped JSON lines without a time stamp or a name, so that equal pairs give equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as file:
        file.writelines(pair.line().encode() for pair in pairs)
    return buffer.getvalue()


def describe(path: Path) -> dict[str, str]:
    """Name and hash of an index file; the name without the mirror that apt puts before it."""
    name = path.name.partition("_dists_")[2] or path.name
    return {"file": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write(splits: dict[str, list[Pair]], log: Log, indexes: list[Path], out: Path) -> None:
    """Writes the splits and `info.json` (last) into `out`."""
    files = {}
    for name, pairs in splits.items():
        content = packed(pairs)
        write_bytes(out / f"{name}.jsonl.gz", content)
        text_hash = hashlib.sha256("".join(pair.line() for pair in pairs).encode()).hexdigest()
        files[f"{name}.jsonl.gz"] = {
            "pairs": len(pairs),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "sha256_text": text_hash,
        }
    about = {"release": release_of(indexes[0]), "indexes": [describe(path) for path in indexes]}
    cleaning = [{"step": what, "left": left} for what, left in log]
    info = about | {"near_share": NEAR_SHARE, "files": files, "cleaning": cleaning}
    write_text(out / "info.json", json.dumps(info, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help="fetch the indexes by apt-get first (needs root)")
    parser.add_argument("--index", type=Path, help="a Translation-en file; by default the one under apt's lists")
    parser.add_argument("--packages", type=Path, help="a Packages file, for source names; by default the one beside it")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    try:
        if options.update:
            subprocess.run(["apt-get", "-o", "Acquire::Languages=en", "update"], check=True)
        index, log = options.index or find_index(), Log()
        packages = options.packages or find_packages(index)
        sources = sources_of(read_index(packages)) if packages else {}
        pairs = select(stanzas(read_index(index)), log, sources)
        write(split(pairs, log), log, [index, *([packages] if packages else [])], options.out)
    except (InstilError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
