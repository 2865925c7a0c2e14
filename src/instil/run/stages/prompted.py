"""Systems without training: the teacher's or the student's own weights, asked behind examples or behind none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from instil.core.protocol import Generator
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.shots import choose_shots, until_next, with_shots
from instil.models.generation import TransformersGenerator
from instil.models.loading import to_accelerator
from instil.run.recipe import Recipe
from instil.run.stage import Artifact
from instil.run.stages.data import Data
from instil.run.stages.made_models import load_made
from instil.run.stages.tasks import records_of
from instil.run.stages.teach import base_teacher, generator_of


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """A `Generator` whose texts end where, behind `shots`, they begin an example of their own."""

    name: str
    inner: Generator
    shots: Sequence[Record]

    @property
    def parameters(self) -> int:
        """Those of the model inside."""
        return self.inner.parameters

    @property
    def bytes(self) -> int:
        """Those of the model inside."""
        return self.inner.bytes

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        """One text for each source, in their order."""
        texts = self.inner.generate(sources, max_new_tokens=max_new_tokens, batch_size=batch_size)
        return [until_next(text, self.shots) for text in texts]


def prompted_systems(recipe: Recipe, data: Data, untrained: Artifact | None) -> dict[str, Generator]:
    """The systems of `evaluate.prompted` by name; their examples are drawn from the train split."""
    systems: dict[str, Generator] = {}
    train = records_of(data.splits["train"], recipe.evaluate.task)
    for section in recipe.evaluate.prompted:
        shots = choose_shots(train, section.shots, recipe.seed) if section.shots else []
        prompt = with_shots(section.prompt or recipe.prompt, shots)
        if section.of == "student" and untrained:
            inner = _student(recipe, untrained, prompt)
        else:
            inner = generator_of(recipe, base_teacher(recipe, data), beams=recipe.evaluate.beams, prompt=prompt)
        systems[section.name] = FirstAnswer(section.name, inner, shots)
    return systems


def _student(recipe: Recipe, untrained: Artifact, prompt: Prompt) -> Generator:
    loaded = load_made(untrained)
    return TransformersGenerator(
        to_accelerator(loaded.model), loaded.tokenizer, prompt, name="student", num_beams=recipe.evaluate.beams,
        max_source_tokens=recipe.limits.source,
    )  # fmt: skip
