"""Which tokens a student has: the teacher's, a part of them, or others, and whether labels fit them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from instil.core import console
from instil.core.errors import ConfigError
from instil.data.records import Record
from instil.data.tokens import Kind, Limits, encode_records
from instil.models.loading import load_reader
from instil.models.students.vocabulary.choose import Texts
from instil.models.students.vocabulary.link import link
from instil.models.students.vocabulary.trim import require_room, trim
from instil.run.recipe import Recipe
from instil.run.stages.data import Data
from instil.run.stages.label import Labels

_PROBED = 50


def needs_labels(recipe: Recipe) -> bool:
    """Whether the student is built out of targets that the labels come with: their tokens are to be kept too."""
    made = recipe.labels.targets == "teacher" or recipe.labels.completions or recipe.labels.store
    return bool(recipe.student and recipe.student.vocabulary and recipe.distil and made)


def check_tokenizers(recipe: Recipe, data: Data) -> None:
    """Raises `ConfigError` where a student of its own reads texts in other tokens than the teacher: labels are a row a
    token, so they would be of no use to it. One that only lacks some of the tokens writes most targets the same."""
    section, distil = recipe.student, recipe.distil
    if section is None or section.model is None or distil is None or not distil.learns_its_tokens:
        return
    if distil.tokens == "aligned":
        return
    limits = Limits(source=recipe.limits.source, target=recipe.limits.target)
    tokenizers, read = [], []
    for model, revision in ((recipe.teacher.model, recipe.teacher.revision), (section.model, section.revision)):
        reader = load_reader(model, revision=revision, accept_licences=recipe.accept_licences)
        tokenizers.append(reader.tokenizer)
        probed = data.splits["train"][:_PROBED]
        read.append(encode_records(reader.tokenizer, recipe.prompt, probed, limits, reader.kind)[0])
    found = link(*tokenizers)
    if found is not None:
        same = sum(found.to_teacher(own.target_ids) == theirs.target_ids for theirs, own in zip(*read, strict=True))
        if same > len(read[0]) / 2:
            return
    for theirs, own in zip(*read, strict=True):
        if theirs != own:
            counts = [f"{len(e.prompt_ids)} tokens and {len(e.target_ids)} of target" for e in (theirs, own)]
            raise ConfigError(
                f"student.model {section.model} reads record {own.id!r} in other tokens than the teacher ({counts[1]};"
                f" the teacher {counts[0]}), so labels do not fit it; choose a student with the teacher's tokenizer, or"
                " learn from its texts alone: distil.alpha: 0 and labels.targets: teacher, without distil.on_policy; or"
                " by rank: distil.tokens: aligned"
            )


def trimmed(
    recipe: Recipe, data: Data, labels: Labels | None, model: Any, tokenizer: Any, kind: Kind
) -> tuple[Any, Any, dict[str, Any]]:
    """The student with the tokens that the recipe keeps, and what is to be told of it."""
    section = recipe.student
    if section is None or section.vocabulary is None:
        return model, tokenizer, {}
    texts = _texts(recipe, kind, data.splits["train"], labels.records if labels else ())
    model, tokenizer, report = trim(model, tokenizer, texts, section.vocabulary.size, section.vocabulary.words)
    console.say(f"  {report}")
    return model, tokenizer, {"vocabulary": asdict(report)}


def check_size(recipe: Recipe, train: Sequence[Record], model: Any, tokenizer: Any, kind: Kind) -> None:
    """Raises `ConfigError` where `student.vocabulary` has fewer tokens than targets and prompt need, `ModelError` where
    they cannot be chosen."""
    if recipe.student and (section := recipe.student.vocabulary):
        require_room(model, tokenizer, _texts(recipe, kind, train), section.size, section.words)


def _texts(recipe: Recipe, kind: Kind, train: Sequence[Record], others: Sequence[Record] = ()) -> Texts:
    limits = Limits(source=recipe.limits.source, target=recipe.limits.target)
    return Texts(prompt=recipe.prompt, limits=limits, kind=kind, records=train, others=others)
