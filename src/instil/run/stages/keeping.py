"""Which of a teacher's outputs become targets: the probable ones, or those near the gold target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from instil.core import console
from instil.core.errors import LabelError
from instil.data.records import Record
from instil.evaluate.rouge import Rouge, tokenizer_for
from instil.labels.scores import mean_log_probs
from instil.labels.teacher import Teacher as LabellingTeacher
from instil.models.family import family_of
from instil.models.loading import to_accelerator
from instil.run.recipe import Recipe
from instil.run.sections.labels import KeepConfig
from instil.run.stages.teach import Teacher, encode

Targets = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that a teacher wrote for a record, and how good it is; higher is better."""

    record: str
    text: str
    score: float


def kept_targets(
    recipe: Recipe, keep: KeepConfig, teacher: Teacher, records: Sequence[Record], written: Targets
) -> Targets:
    """Those of the texts `written` that `keep` keeps, best first. Raises `LabelError` where none is left."""
    pairs = [(record, text) for record in records for text in written.get(record.id, ()) if text]
    scores = _rouge(pairs) if keep.by == "rouge" else teacher_scores(recipe, teacher, pairs)
    candidates = [Candidate(record.id, text, score) for (record, text), score in zip(pairs, scores, strict=True)]
    kept = choose(candidates, least=keep.least, best=keep.best, share=keep.share)
    if not kept:
        best = max(scores, default=0.0)
        raise LabelError(f"labels.keep leaves none of {len(pairs):,} outputs, the best has {best:.2f}; lower least")
    found: dict[str, list[str]] = {}
    for candidate in kept:
        found.setdefault(candidate.record, []).append(candidate.text)
    console.say(f"  kept {len(kept):,} of {len(pairs):,} outputs, of {len(found):,} records, by {keep.by}")
    return found


def choose(
    candidates: Sequence[Candidate], *, least: float | None, best: int | None, share: float | None
) -> list[Candidate]:
    """Those of at least `least`, of each record's the `best`, and of these the best `share`; best first."""
    places: dict[str, int] = {}
    kept = []
    for candidate in sorted(candidates, key=lambda one: -one.score):
        place = places[candidate.record] = places.get(candidate.record, 0) + 1
        if (least is None or candidate.score >= least) and (best is None or place <= best):
            kept.append(candidate)
    return kept if share is None else kept[: max(1, round(share * len(kept)))]


def teacher_scores(recipe: Recipe, teacher: Teacher, pairs: Sequence[tuple[Record, str]]) -> list[float]:
    """The teacher's mean log-probability of each text behind its record's source, in nats a token."""
    texts = [replace(record, targets=(text,)) for record, text in pairs]
    examples, _ = encode(recipe, teacher.loaded, texts, "teacher's outputs")
    model = to_accelerator(teacher.loaded.model)
    labeller = LabellingTeacher(model=model, family=family_of(model), batch_tokens=recipe.labels.batch_tokens)
    with console.progress("scores", len(examples), "outputs") as advance:
        return mean_log_probs(labeller, examples, lambda done: advance(done, ""))


def _rouge(pairs: Sequence[tuple[Record, str]]) -> list[float]:
    rouge = Rouge(tokenizer=tokenizer_for(target for record, _ in pairs for target in record.targets))
    return [rouge.score(text, record.targets).rougeL for record, text in pairs]
