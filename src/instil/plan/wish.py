"""What a user wishes: models, data, limits. Read from the command line or from a recipe under `recipes/plan/`."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from instil.core.config import Config
from instil.core.errors import ConfigError
from instil.plan.models import find_model
from instil.plan.shape import Shape, parameters

Way = Literal["labels", "labels-lora", "labels-qlora", "online"]
"""How a student learns: from stored labels with all weights, with adapters, with adapters on 4-bit weights; or beside
a teacher that answers in the same process."""
_MOST = 10**12
"""Of anything that is counted: what is more is a slip of the hand."""
WAYS: tuple[Way, ...] = ("labels", "labels-lora", "labels-qlora", "online")


class Wish(Config):
    """One question to the planner."""

    teacher: str
    student: str
    examples: int = Field(gt=0, le=_MOST)
    source_tokens: float = Field(default=800, gt=0, le=_MOST)
    target_tokens: float = Field(default=120, gt=0, le=_MOST)
    targets: Literal["given", "teacher"] = "given"
    """`teacher`: the teacher writes the targets before anything else."""
    epochs: float = Field(default=3, gt=0, le=1e6)
    batch: PositiveInt = 64
    """Examples in an optimizer step."""
    trials: PositiveInt = 1
    """Trainings of the student: more than 1 where settings are searched."""
    evaluated: int = Field(default=1000, ge=0)
    within_hours: PositiveFloat | None = None
    budget_usd: PositiveFloat | None = None
    cloud: str | None = None
    gpu: str | None = None
    gpus: PositiveInt | None = None
    spot: bool = False
    requests_per_day: float = Field(default=10_000, gt=0, le=_MOST)
    grid: str = "us"

    @property
    def length(self) -> float:
        """Tokens of an example."""
        return self.source_tokens + self.target_tokens

    @property
    def steps(self) -> float:
        """Optimizer steps of one training."""
        return max(1.0, self.examples * self.epochs / self.batch)


def read_count(text: str) -> int:
    """A count as people write it: "50k", "1.5M", "2000"."""
    found = re.fullmatch(r"([\d.]+)\s*([kKmM]?)", text.strip())
    try:
        number = float(found[1]) * {"": 1, "k": 1e3, "m": 1e6}[found[2].lower()] if found else 0
    except ValueError:
        number = 0
    if not 1 <= number <= _MOST:
        raise ConfigError(f"{text!r} is no count; write it as 2000, 50k or 1.5M")
    return round(number)


def read_hours(text: str) -> float:
    """A time as people write it: "3h", "90m", "2d", "27"."""
    found = re.fullmatch(r"([\d.]+)\s*(h|m|min|d|)", text.strip().lower())
    try:
        hours = float(found[1]) * {"": 1, "h": 1, "m": 1 / 60, "min": 1 / 60, "d": 24}[found[2]] if found else 0
    except ValueError:
        hours = 0
    if hours <= 0:
        raise ConfigError(f"{text!r} is no time; write it as 3h, 90m or 2d")
    return hours


def student_shape(ref: str, teacher: Shape) -> Shape:
    """The student that is wished: a model, "NAME@20" for 20 layers of it, or a size such as "4b".

    A size is met by the built-in model with the teacher's vocabulary that comes nearest, else by so many of the
    teacher's own layers. Raises `ConfigError` or `ModelError` in words of the user.
    """
    from dataclasses import replace

    if re.fullmatch(r"[\d.]+\s*[bm]", ref.strip().lower()):
        return _of_size(_size(ref.strip().lower()), teacher)
    name, cut, layers = ref.partition("@")
    shape = find_model(name)
    if not cut:
        return shape
    if not layers.isdigit() or not 1 <= int(layers) <= shape.layers:
        raise ConfigError(
            f"student {ref!r}: {name} has {shape.layers} layers; write {name}@{max(1, shape.layers // 2)}"
        )
    return replace(
        shape, name=ref, layers=int(layers), windowed=round(shape.windowed * int(layers) / shape.layers),
        encoder_layers=min(shape.encoder_layers, int(layers)),
    )  # fmt: skip


def _size(text: str) -> float:
    """The parameters of a size such as "4b"."""
    try:
        size = float(text[:-1]) * (1e9 if text[-1] == "b" else 1e6)
    except ValueError:
        size = 0.0
    if not 0 < size <= 1000 * _MOST:
        raise ConfigError(f"student {text!r} is no size; write it as 4b or 350m")
    return size


def _of_size(size: float, teacher: Shape) -> Shape:
    from instil.plan.models import known_models

    near = [shape for shape in known_models().values() if share_vocabulary(shape, teacher)]
    near = [shape for shape in near if abs(parameters(shape) / size - 1) < 0.25]
    if near:
        return min(near, key=lambda shape: abs(parameters(shape) / size - 1))
    outside = parameters(teacher) - teacher.layers * _layer(teacher)
    layers = round((size - outside) / _layer(teacher))
    if not 1 <= layers < teacher.layers:
        raise ConfigError(
            f"no student of {size / 1e9:g}B for {teacher.name}: its tables alone are {outside / 1e9:.1f}B, the whole "
            f"is {parameters(teacher) / 1e9:.1f}B; name a model"
        )
    return student_shape(f"{teacher.name}@{layers}", teacher)


def _layer(shape: Shape) -> int:
    cross = shape.attention_parameters if shape.is_encoder_decoder else 0
    return shape.attention_parameters + cross + shape.feed_forward_parameters + shape.norms * shape.norm_parameters


def share_vocabulary(one: Shape, other: Shape) -> bool:
    """Whether two models seem to have one tokenizer: alike in kind, and in vocabulary but for padding."""
    alike = abs(one.vocabulary / other.vocabulary - 1) < 0.002
    return alike and one.is_encoder_decoder == other.is_encoder_decoder
