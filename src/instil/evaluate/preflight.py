"""Is the teacher worth learning from? Teacher and student, as they are before any training, on the same records."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from instil.core.problems import Problem, fail, info, warn
from instil.data.batches import epoch_batches
from instil.data.tokens import Encoded
from instil.evaluate.significance import difference_interval, mean_interval
from instil.models.family import Family
from instil.models.probe import evaluating

_BATCH_TOKENS, _CHUNK = 2048, 256
_SILENT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a model does with some records, one by one: nats a token of the target, ROUGE-L in percent, its texts."""

    losses: tuple[float, ...]
    rouges: tuple[float, ...]
    texts: tuple[str, ...]


def record_losses(model: nn.Module, family: Family, examples: Sequence[Encoded]) -> list[float]:
    """The cross-entropy of each example's target, in nats: the sum over its tokens."""
    lengths = [example.length for example in examples]
    found = [0.0] * len(examples)
    device = next(model.parameters()).device
    with evaluating(model):
        for indices in epoch_batches(lengths, tokens=max([_BATCH_TOKENS, *lengths]), seed=0, epoch=0):
            batch = family.collate([examples[index] for index in indices]).to(device)
            rows = family.rows(model, batch)
            # A few rows at a time: vocabularies are large.
            parts = zip(rows.hidden_ND.split(_CHUNK), rows.target_N.split(_CHUNK), strict=True)
            loss_N = torch.cat([_losses(rows.head.logits(hidden_CD), target_C) for hidden_CD, target_C in parts])
            for place, index in enumerate(indices):
                found[index] = float(loss_N[rows.example_N == place].sum())
    return found


def _losses(logits_CV: Tensor, target_C: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_CV.float(), target_C, reduction="none")


def teacher_problems(teacher: Sample, student: Sample | None, *, first_words: Sequence[float]) -> list[Problem]:
    """Whether the teacher writes at all, better than its student, and better than the source's own first words, whose
    ROUGE-L on the same records is `first_words`."""
    silent = sum(not text.strip() for text in teacher.texts) / len(teacher.texts)
    if silent > _SILENT:
        remedy = "check prompt and end token, or fine-tune it first: add teacher.teach"
        return [
            fail(
                "teacher-silent", "the teacher writes nothing", remedy, evidence=f"{silent:.0%} of its texts are empty"
            )
        ]
    found = [_against(teacher, student)] if student is not None else []
    if any(problem.grade == "fail" for problem in found):
        return found
    return [*found, *_against_first_words(teacher, first_words)]


def _against(teacher: Sample, student: Sample) -> Problem:
    """Worse where ROUGE says so for sure, or where the loss does and ROUGE does not contradict it."""
    rouge = difference_interval(teacher.rouges, student.rouges, seed=0)
    loss = difference_interval(teacher.losses, student.losses, seed=0)
    scores = f"{statistics.fmean(teacher.rouges):.1f}", f"{statistics.fmean(student.rouges):.1f}"
    evidence = _evidence(teacher, student)
    if rouge.high < 0 or (loss.low > 0 and rouge.value <= 0):
        what = f"your teacher ({scores[0]}) is worse than your student ({scores[1]})"
        remedy = "fine-tune it first: add teacher.teach and run `instil teach RECIPE`, or choose another teacher"
        return fail("teacher-worse", what, remedy, evidence=evidence)
    if loss.low > 0 or rouge.value < 0:
        what = f"your teacher ({scores[0]}) is hardly better than your student ({scores[1]})"
        remedy = (
            "fine-tune it first (`instil teach RECIPE`), or look again with more records: instil check --records 200"
        )
        return warn("teacher-close", what, remedy, evidence=evidence)
    return info(
        "teacher-better", f"your teacher ({scores[0]}) is better than your student ({scores[1]})", evidence=evidence
    )


def _evidence(teacher: Sample, student: Sample) -> str:
    def both(name: str, unit: str) -> str:
        intervals = (mean_interval(getattr(sample, name), seed=0) for sample in (teacher, student))
        mine, theirs = (f"{each.value:.{unit}} ({each.low:.{unit}} to {each.high:.{unit}})" for each in intervals)
        return f"teacher {mine}, student {theirs}"

    count = len(teacher.rouges)
    return f"{count} records: ROUGE-L {both('rouges', '1f')}; nats a token {both('losses', '2f')}"


def _against_first_words(teacher: Sample, first_words: Sequence[float]) -> list[Problem]:
    lead = difference_interval(teacher.rouges, first_words, seed=0)
    if lead.high >= 0:
        return []
    evidence = (
        f"ROUGE-L {statistics.fmean(teacher.rouges):.1f}, that of the first words {statistics.fmean(first_words):.1f}"
    )
    remedy = "fine-tune it first: add teacher.teach; where targets are no words of the source, look at the loss instead"
    return [
        warn(
            "teacher-below-first-words", "copying the source's first words beats the teacher", remedy, evidence=evidence
        )
    ]
