"""Writes the data card of the built-in `synopsis` corpus: what `info.json` tells, lengths, and trivial baselines.

    python tools/synopsis_card.py

The section "## Teacher", and what follows it, is kept as it stands in the present card.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from statistics import mean, quantiles
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from instil.core.publish import write_text
from instil.data.records import Record
from instil.data.synopsis import FOLDER, SPLITS, load
from synopsis_text import first_sentence

METRICS = ("rouge1", "rouge2", "rougeL")
FIRST_WORDS = (6, 8, 10, 12)
TEACHER = "## Teacher\n\nTo be filled in: the command, its hours and its result.\n"

CARD = """# Data card: synopsis

Pairs of a Debian package's long description and its one-line synopsis: real English prose that maintainers wrote for
the people who choose software. {pairs:,} pairs, one a source package. The task: write the synopsis of a description.

## Provenance

The English description index (`Translation-en`) of section `main`, Debian {version} ({codename}), archive release of
{date}; source package names from the `Packages` index of the same release.

{indexes}

## Licence

The descriptions are part of Debian's packages. Each entry is under the licence that its package's `debian/copyright`
gives for the packaging (`debian/*`), all of them free by Debian's guidelines. An entry's `id` is its binary package's
name: `https://packages.debian.org/bookworm/<id>` leads to the copyright file. See `NOTICE`.

## How it was built

    apt-get -o Acquire::Languages=en update          # on Debian 12, or: --update
    python tools/build_synopsis.py                   # or: --index Translation-en --packages Packages
    python tools/synopsis_card.py                    # this card

Equal indexes give equal records in equal order. `info.json` has the hashes.
A record: `{{"id": package, "source": description, "target": synopsis}}`, one JSON line each, gzipped.

Markup: wrapped lines are joined, paragraphs are parted by a blank line, list items keep a line each and start with
"- "; NFC, no control characters. Cut from descriptions: sentences about sibling packages and kinds of files ("This
package contains the development files."), a short last paragraph "This package contains ...", lines with only a home
page. Cut from synopses: a tail that names a kind of file, such as "(Python 3)" or "- shared library".
Among siblings the one named like its source comes first, then the one with fewest suffixes, then the shortest name.

| step | left |
|---|---:|
{steps}

## Splits

By SHA-256 of the words of the first sentence: the {test} lowest are test, the next {validation} validation, the rest
train. First sentences, bodies, synopses and source packages are unique over all splits, and no two bodies anywhere
share {near:.0%} or more of the shorter one's word 5-grams; `tests/test_synopsis.py` checks the splits anew.

| split | pairs | source words, mean | p95 | target words, mean | p95 | bytes (gz) |
|---|---:|---:|---:|---:|---:|---:|
{splits}

Words are what white space parts.

## Baselines

Test split, n = {n}; F1 x 100, `rouge-score` {rouge} with its stemmer; computed by `python tools/synopsis_card.py`.

| baseline | ROUGE-1 | ROUGE-2 | ROUGE-L |
|---|---:|---:|---:|
{baselines}

## Limits

- One reference each, written by one maintainer in the style of one archive: short, without a verb, often with the
  programming language's name. Capital letters and final full stops vary as their authors left them.
- What the description does not say cannot be learnt: a few synopses name the part of a suite ("- API server") whose
  sentence was cut from the description as boilerplate.
- Boilerplate is found by patterns. Some remains; some sentences that say something went with it.
- Families written after one pattern (Perl modules, GNU R, Go and Haskell libraries) are a large part of it.
- Terse technical English about software and nothing else: a score here says little about news or dialogue.

"""


def row(*cells: object) -> str:
    """One line of a Markdown table; numbers with thousands separators or one decimal."""
    formats: dict[type, str] = {float: ".1f", int: ","}
    return "| " + " | ".join(format(cell, formats.get(type(cell), "")) for cell in cells) + " |"


def lengths(texts: list[str]) -> tuple[float, float]:
    """Mean and 95th percentile of the number of words."""
    counts = [len(text.split()) for text in texts]
    return mean(counts), quantiles(counts, n=20)[-1]


def rouge(records: list[Record], predict: Callable[[str], str]) -> list[float]:
    """Mean ROUGE-1/2/L F1 x 100 of `predict(source)` against the one reference."""
    scorer = RougeScorer(list(METRICS), use_stemmer=True)
    scores = [scorer.score(record.targets[0], predict(record.source)) for record in records]
    return [100 * mean(score[metric].fmeasure for score in scores) for metric in METRICS]


def first_words(count: int) -> Callable[[str], str]:
    """A baseline that takes the first `count` words of a source."""
    return lambda source: " ".join(source.split()[:count])


def baseline_rows(records: list[Record]) -> str:
    named: dict[str, Callable[[str], str]] = {"lead-1 (first sentence)": first_sentence}
    named |= {f"first {count} words": first_words(count) for count in FIRST_WORDS}
    return "\n".join(row(name, *rouge(records, predict)) for name, predict in named.items())


def split_rows(splits: dict[str, list[Record]], info: dict[str, Any]) -> str:
    lines = []
    for name, records in splits.items():
        source, target = lengths([r.source for r in records]), lengths([r.targets[0] for r in records])
        lines.append(row(name, len(records), *source, *target, info["files"][f"{name}.jsonl.gz"]["bytes"]))
    return "\n".join(lines)


def card() -> str:
    """The text of the card up to the teacher's section."""
    info: dict[str, Any] = json.loads((FOLDER / "info.json").read_text(encoding="utf-8"))
    splits = {name: load(name) for name in SPLITS}
    return CARD.format(
        **info["release"],
        pairs=sum(map(len, splits.values())),
        indexes="\n".join(f"- `{index['file']}`, SHA-256 `{index['sha256']}`" for index in info["indexes"]),
        steps="\n".join(row(step["step"], step["left"]) for step in info["cleaning"]),
        test=len(splits["test"]),
        validation=len(splits["validation"]),
        near=info["near_share"],
        splits=split_rows(splits, info),
        n=len(splits["test"]),
        rouge=version("rouge-score"),
        baselines=baseline_rows(splits["test"]),
    )


def main() -> None:
    path = FOLDER / "DATACARD.md"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    _, heading, rest = old.partition("## Teacher")
    write_text(path, card() + (heading + rest or TEACHER))


if __name__ == "__main__":
    main()
