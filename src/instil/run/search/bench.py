"""Rates candidates: how fast a student is before it has learned, and what it has learned after a few steps."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from instil.core.errors import ConfigError
from instil.data.records import Record
from instil.data.tokens import Encoded, encode_targets
from instil.evaluate.latency import measure_latency, spread
from instil.models.generation import PacedGenerator
from instil.models.layers import stack_of
from instil.models.loading import LoadedModel, to_accelerator
from instil.models.students.anatomy import ANATOMIES
from instil.models.students.sizes import sizes_of
from instil.plan.configs import shape_of_config
from instil.run.recipe import Recipe
from instil.run.search.space import Candidate, Frame, Scales, Space
from instil.run.search.wish import Wish
from instil.run.sections.distil import DistilConfig
from instil.run.sections.student import StudentConfig
from instil.run.stages.data import Data
from instil.run.stages.distil import distil_task
from instil.run.stages.label import Labels
from instil.run.stages.reading import Reading, reading_of
from instil.run.stages.student import cut_student
from instil.run.stages.tasks import examined_records
from instil.run.stages.teach import Teacher, encode, generator_of
from instil.run.stages.tokens import trimmed
from instil.train.config import Budget
from instil.train.loop import train

_QUICK = 16
"""Calibration examples by which layers and units of candidates are chosen and mended."""
_TIMED = 10
"""Sources that a candidate is timed on, beside the teacher."""
Heard = Callable[[int, float], None]
"""Told a number of reports so far and the loss on held-out records; may raise to end the trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """A source to time on, and how many tokens the teacher writes for it."""

    source: str
    tokens: int


@dataclass
class Bench:
    """A teacher with its data and labels, for candidates to be cut out of and to learn from."""

    recipe: Recipe
    data: Data
    teacher: Teacher
    labels: Labels
    wish: Wish

    def __post_init__(self) -> None:
        self._whole: dict[int | str, LoadedModel] = {"all": self.teacher.loaded}
        self._readings: dict[int | str, Reading] = {}

    @cached_property
    def whole(self) -> Candidate:
        """The teacher's own sizes."""
        model = self.teacher.loaded.model
        sizes = self.frame.teacher if self.frame else None
        return Candidate(
            layers=len(stack_of(model).layers),
            encoder_layers=len(stack_of(model, "encoder").layers) if model.config.is_encoder_decoder else None,
            hidden=sizes.hidden if sizes else None,
            feed_forward=sizes.feed_forward if sizes else None,
            heads=sizes.heads if sizes else None,
            vocabulary="all",
        )

    @cached_property
    def frame(self) -> Frame | None:
        """Which widths go together in students of the teacher; None where they cannot be cut."""
        config = self.teacher.loaded.model.config
        anatomy = ANATOMIES.get(config.model_type)
        return Frame(teacher=sizes_of(config, anatomy), anatomy=anatomy) if anatomy else None

    def scales(self, space: Space) -> Scales:
        """What candidates of `space` are weighed with."""
        loaded = self.teacher.loaded
        examples = encode(self.recipe, loaded, self.data.splits["train"][:512], "sizes")[0]
        return Scales(
            shape=shape_of_config(self.recipe.teacher.model, loaded.model.config.to_dict()),
            frame=self.frame,
            tokens={each: _rows(self.with_tokens(each).model) for each in space.vocabulary},
            source=statistics.fmean(len(example.prompt_ids) for example in examples),
            target=statistics.fmean(len(example.target_ids) for example in examples),
        )

    def with_tokens(self, vocabulary: int | str) -> LoadedModel:
        """The teacher with this part of its tokens."""
        if vocabulary not in self._whole:
            loaded = self.teacher.loaded
            section = StudentConfig.model_validate({"vocabulary": {"tokens": vocabulary}})
            recipe = self._recipe(section)
            model, tokenizer, _ = trimmed(recipe, self.data, self.labels, loaded.model, loaded.tokenizer, loaded.kind)
            self._whole[vocabulary] = replace(loaded, model=model, tokenizer=tokenizer)
        return self._whole[vocabulary]

    def milliseconds(self, space: Space, candidate: Candidate, items: int = _TIMED) -> tuple[float, float]:
        """The median time of the teacher and of the candidate for one source, in turns; both write what the teacher
        would, since a student that has not learned yet does not know where to end."""
        section = space.section(candidate, None).model_copy(update={"choice": "even", "mend": False})
        whole = self.with_tokens(candidate.vocabulary)
        paces = self._paces[:: max(1, len(self._paces) // items)][:items]
        lengths = {pace.source: pace.tokens for pace in paces}
        systems = {
            "teacher": self._paced(self.teacher.loaded, lengths),
            "student": self._paced(replace(whole, model=self._cut(section, whole, calibration=2)), lengths),
        }
        most = self.recipe.evaluate.max_new_tokens
        times = measure_latency(systems, list(lengths), max_new_tokens=most)
        return statistics.median(times["teacher"]), statistics.median(times["student"])

    def loss(self, space: Space, candidate: Candidate, heard: Heard) -> float:
        """Cross-entropy, in nats a token, on held-out records after a short recovery."""
        section = space.section(candidate, self.recipe.student)
        recipe, whole = self._recipe(section), self.with_tokens(candidate.vocabulary)
        assert recipe.distil is not None
        distil = _short(recipe.distil, self.wish)
        model = self._cut(section, whole, calibration=_QUICK)
        reading = self._reading(candidate.vocabulary, recipe, whole)
        task = distil_task(recipe, distil, None, model, self.labels, reading)
        task.held_out = self._encode(whole, self.held_out)
        losses: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            for report in train(task, distil.loop, folder=Path(folder), seed=recipe.seed):
                if report.validation_loss is not None:
                    losses.append(report.validation_loss)
                    heard(len(losses), report.validation_loss)
        return losses[-1]

    @cached_property
    def held_out(self) -> list[Record]:
        """Records that candidates are judged on and do not learn from."""
        found = (self.data.splits["validation"] or self.data.splits["train"])[-self.wish.records :]
        if len(found) == len(self.data.splits["train"]):
            raise ConfigError("there are no records to judge candidates on; raise data.validation_share")
        return found

    @cached_property
    def _paces(self) -> list[Paced]:
        """What `instil evaluate` times, from the longest to the shortest output."""
        section = self.recipe.evaluate
        records = examined_records(self.data.splits, section)
        sources = [records[n].source for n in spread(len(records), section.latency_items, seed=self.recipe.seed)]
        writer, reads = generator_of(self.recipe, self.teacher, beams=section.beams), self.teacher.reads
        texts = writer.generate(sources, max_new_tokens=section.max_new_tokens, batch_size=section.batch_size)
        written = encode_targets(reads.tokenizer, self.recipe.prompt, texts, reads.kind)
        paces = [
            Paced(source=source, tokens=max(1, min(len(ids), section.max_new_tokens)))
            for source, ids in zip(sources, written, strict=True)
        ]
        return sorted(paces, key=lambda pace: -pace.tokens)

    def _paced(self, loaded: LoadedModel, lengths: Mapping[str, int]) -> PacedGenerator:
        return PacedGenerator(
            to_accelerator(loaded.model), loaded.tokenizer, self.recipe.prompt, name="timed", lengths=lengths,
            num_beams=self.recipe.evaluate.beams, max_source_tokens=self.recipe.limits.source,
        )  # fmt: skip

    def _cut(self, section: StudentConfig, whole: LoadedModel, *, calibration: int) -> Any:
        fewer = section.model_copy(update={"calibration": min(calibration, section.calibration), "vocabulary": None})
        with _quietly():
            return cut_student(self.recipe, fewer, self.data.splits["train"], whole)[0]

    def _recipe(self, section: StudentConfig) -> Recipe:
        return self.recipe.model_copy(update={"student": section})

    def _reading(self, vocabulary: int | str, recipe: Recipe, whole: LoadedModel) -> Reading:
        if vocabulary not in self._readings:
            held_out = {record.id for record in self.held_out}
            learned = [record for record in self.labels.records if record.id not in held_out]
            with _quietly():
                self._readings[vocabulary] = reading_of(recipe, whole, self.labels, self._encode(whole, learned))
        return self._readings[vocabulary]

    def _encode(self, loaded: LoadedModel, records: Sequence[Record]) -> list[Encoded]:
        with _quietly():
            return encode(self.recipe, loaded, records, "search")[0]


def _short(section: DistilConfig, wish: Wish) -> DistilConfig:
    """Learning for the wish's steps, without anything that outlives it."""
    loop = section.loop.model_copy(
        update={
            "budget": Budget(steps=wish.steps), "validate_steps": max(1, wish.steps // wish.reports), "trackers": (),
            "checkpoint_steps": wish.steps + 1,
        }
    )  # fmt: skip
    return section.model_copy(update={"loop": loop, "features": None})


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


@contextmanager
def _quietly() -> Iterator[None]:
    """What a stage says once, a search would say for each candidate."""
    with redirect_stderr(StringIO()):
        yield
