"""What does a smaller vocabulary cost, and what does it save?

    python -m benchmarks.vocabulary [--json] [--quick] [--only 0 1 2 3 4]

SmolLM2-135M is cut to the tokens that the built-in corpus uses and to 16,000, with the parts of what is merged and with
words taken whole; Gemma 3 270M, whose targets alone use more, to 20,000 for the first 4,000 records, and with words
taken whole to 17,000 for all. For each: targets
and prompts of the train split (whole sources) that are other tokens now, how much longer the sources are, whether every
text comes out as it went in, weights, and the largest difference of a kept id's logit from the teacher's over
records that are the same tokens for both. `nats` and `nats_before`: what a held-out target costs the model after and
before, in nats over all its tokens, a mean over the same records, with the teacher's adapter where there is one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.real import LIMITS, PROMPT, load_teacher
from instil.data.records import Record
from instil.data.synopsis import load
from instil.data.tokens import Encoded, Limits, encode_records
from instil.models.family import family_of
from instil.models.loading import LoadedModel
from instil.models.students.vocabulary.choose import Texts
from instil.models.students.vocabulary.link import Link, link
from instil.models.students.vocabulary.pieces import Words
from instil.models.students.vocabulary.trim import trim
from instil.run.quiet import quiet_libraries

WHOLE = Limits(source=100_000, target=1_000)
CUTS: tuple[tuple[str, int | None, int | None, Words], ...] = (
    ("smollm2", None, None, "merged"),
    ("smollm2", 16_000, None, "merged"),
    ("smollm2", 16_000, None, "whole"),
    ("gemma3", 20_000, 4_000, "merged"),
    ("gemma3", 17_000, None, "whole"),
)
"""A model, the size of its vocabulary (None: all that is used), the records (None: all), and how it finds words."""
_HELD_OUT = 100
_LOGIT_RECORDS = 12


def round_trips(loaded: LoadedModel, tokenizer: Any, records: Sequence[Record]) -> int:
    """Texts, sources and targets, that come out of `tokenizer` otherwise than out of the teacher's."""
    texts = [text for record in records for text in (record.source, record.targets[0])]
    before, after = (
        each.batch_decode(each(texts)["input_ids"], skip_special_tokens=True) for each in (loaded.tokenizer, tokenizer)
    )
    return sum(one != two for one, two in zip(before, after, strict=True))


@torch.inference_mode()
def logit_error(loaded: LoadedModel, student: Any, found: Link, pairs: Sequence[tuple[Encoded, Encoded]]) -> float:
    """The largest difference of a kept id's logit over `pairs` (the teacher's reading, the student's)."""
    worst = 0.0
    columns = [number for number in found.teacher_ids if number < loaded.model.config.vocab_size]
    for theirs, own in pairs:
        logits = []
        for model, example in ((loaded.model, theirs), (student, own)):
            family = family_of(model)
            rows = family.rows(model, family.collate([example]))
            logits.append(rows.head.logits(rows.hidden_ND))
        worst = max(worst, float((logits[0][:, columns] - logits[1]).abs().max()))
    return worst


@torch.inference_mode()
def nats(model: Any, examples: Sequence[Encoded]) -> float:
    """What a whole target costs on average."""
    family, total = family_of(model), 0.0
    for example in examples:
        rows = family.rows(model, family.collate([example]))
        logits_NV = rows.head.logits(rows.hidden_ND).float()
        total += float(torch.nn.functional.cross_entropy(logits_NV, rows.target_N, reduction="sum"))
    return total / len(examples)


def measure(name: str, size: int | None, records: list[Record], words: Words) -> dict[str, Any]:
    """A line of the table."""
    loaded = load_teacher(name)
    texts = Texts(prompt=PROMPT, limits=WHOLE, kind=loaded.kind, records=records)
    student, tokenizer, report = trim(loaded.model, loaded.tokenizer, texts, size, words)
    found = link(loaded.tokenizer, tokenizer)
    assert found is not None
    whole, own = (
        encode_records(each, PROMPT, records, WHOLE, loaded.kind)[0] for each in (loaded.tokenizer, tokenizer)
    )
    translated = [
        Encoded(each.id, found.to_teacher(each.prompt_ids), found.to_teacher(each.target_ids)) for each in own
    ]
    same = [(theirs, mine) for theirs, mine, again in zip(whole, own, translated, strict=True) if theirs == again]
    kept = set(found.teacher_ids)
    counted = [token in kept for each in whole for token in each.prompt_ids + each.target_ids]
    held_out = load("validation")[:_HELD_OUT]
    theirs, mine = (
        encode_records(each, PROMPT, held_out, LIMITS, loaded.kind)[0] for each in (loaded.tokenizer, tokenizer)
    )
    same.sort(key=lambda pair: pair[0].length)
    middle = same[len(same) // 2 :][:_LOGIT_RECORDS]
    return {
        "model": name, "tokens": size or "used", "words": words, **asdict(report), "changed": len(report.changed),
        "records_same": len(same), "occurrences_kept": sum(counted) / len(counted),
        "texts_changed": round_trips(loaded, tokenizer, records),
        "logit_error": logit_error(loaded, student, found, middle), "logit_records": len(middle),
        "nats_before": nats(loaded.model, theirs), "nats": nats(student, mine), "nats_records": len(held_out),
    }  # fmt: skip


def line_of(row: dict[str, Any]) -> str:
    """`row` for a person."""
    return (
        f"{row['model']:<8} {row['tokens']!s:>6} {row['words']}: {row['kept']:,} of {row['of']:,} tokens,"
        f" {row['occurrences_kept']:.1%} of occurrences; {row['changed']} of {row['sources']:,} targets changed,"
        f" {row['records_same']:,} records the same, sources {row['longer']:.2%} longer,"
        f" {row['texts_changed']} texts come out otherwise;"
        f" {row['parameters_before'] / 1e6:.1f}M -> {row['parameters_after'] / 1e6:.1f}M weights;"
        f" logits within {row['logit_error']:.1e} (n = {row['logit_records']});"
        f" {row['nats_before']:.2f} -> {row['nats']:.2f} nats a held-out target (n = {row['nats_records']})"
    )


def main() -> None:
    """Print the table, or with --json one object with a list `rows`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="500 records")
    parser.add_argument("--only", nargs="+", type=int, default=range(len(CUTS)), help="numbers of lines of the table")
    options = parser.parse_args()
    quiet_libraries()
    rows = []
    for name, size, count, words in (CUTS[number] for number in options.only):
        rows.append(measure(name, size, load("train")[: 500 if options.quick else count], words))
        if not options.json:
            print(line_of(rows[-1]), flush=True)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
