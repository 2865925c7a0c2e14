"""Section `distil`: how the student learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from instil.core.config import Config
from instil.objectives.config import Difficulty, Divergence, Feature, FeatureLoss, FeaturePlace, Tokens, Weighing
from instil.objectives.schedules import Schedule
from instil.train.adaptation import Adaptation
from instil.train.config import LoopConfig


def _planned(schedule: Schedule) -> Schedule:
    if schedule.shape == "learned":
        raise ValueError("only a temperature can be learned; choose linear, cosine or steps")
    return schedule


def _share(schedule: Schedule) -> Schedule:
    if not all(0 <= end <= 1 for end in (schedule.start, schedule.end)):
        raise ValueError("a share lies between 0 and 1")
    return schedule


def _weight(schedule: Schedule) -> Schedule:
    if min(schedule.start, schedule.end) < 0:
        raise ValueError("a weight is 0 or more")
    return schedule


def _inner_share(schedule: Schedule) -> Schedule:
    if not all(0 < end < 1 for end in (schedule.start, schedule.end)):
        raise ValueError("it lies between 0 and 1, neither included")
    return schedule


def _temperature(schedule: Schedule) -> Schedule:
    if schedule.values is None or min(schedule.values) <= 0:
        raise ValueError("give a number above 0, or a schedule of shape: steps or learned between such")
    if schedule.learned and schedule.parts < 2:
        raise ValueError("a learned temperature lies between recorded ones; set parts to 2 or more")
    return schedule


class FeaturesConfig(Config):
    """Draw what the student computes on the way to what the teacher, which is then in memory, does: the mean over pairs
    of layers, times `weight`.

    `match`: the `states` that layers give, or the `embeddings` that enter the first one, at the relative squared error
    (`mse`) or 1 - cosine; `attention` weights, which need both models in eager attention, and so switch them to it; or
    the relations within `values`, `queries` or `keys` of the attention (MiniLM), in `heads` groups of channels.
    `place`: the decoder's layers, the encoder's, or the decoder's attention to the encoder. `layers`: pairs of numbers,
    the student's and the teacher's; `auto` pairs each with what follows it in the teacher (train/features.py), for
    relations the last layers alone."""

    weight: Annotated[Schedule, AfterValidator(_planned), AfterValidator(_weight)] = Schedule.constant(1.0)
    match: Feature = "states"
    place: FeaturePlace = "decoder"
    kind: FeatureLoss = "mse"
    heads: PositiveInt | None = None
    layers: Literal["auto"] | tuple[tuple[NonNegativeInt, NonNegativeInt], ...] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.place == "cross" and self.match in ("states", "embeddings"):
            raise ValueError(f"place: cross has no {self.match} of its own; match attention, values, queries or keys")
        if self.match == "embeddings" and self.layers != "auto":
            raise ValueError("embeddings enter the first layer alone; leave layers out")
        return self


class CurriculumConfig(Config):
    """From easy to hard: the first epoch has the easiest share `start` of the examples, each further one some more, and
    after `epochs` of them an epoch has them all. Hard is what costs the teacher much `loss` on its target, or where it
    is undecided: `entropy`. Both are read from the labels (train/curriculum.py)."""

    by: Difficulty = "loss"
    start: float = Field(default=0.25, gt=0, lt=1)
    epochs: PositiveInt = 3

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the examples, in each epoch that has not all of them."""
        return tuple(self.start + (1 - self.start) * epoch / self.epochs for epoch in range(self.epochs))


def _listed(value: Any) -> Any:
    """One set of features may stand for itself."""
    return () if value is None else (value,) if isinstance(value, Mapping | FeaturesConfig) else value


class OnPolicyConfig(Config):
    """For a `share` of the micro-batches (a number or a schedule) the student itself writes the targets, at most
    `max_new_tokens` (`limits.target` when not given) drawn at temperature `sample`, and learns the teacher's
    distribution at each of their positions: the divergence alone, since nobody says that they are right. The teacher is
    then in memory, or its server asked in each step."""

    share: Annotated[Schedule, AfterValidator(_share)] = Schedule.constant(0.5)
    sample: PositiveFloat = 1.0
    max_new_tokens: PositiveInt | None = None


class SelfTeacherConfig(Config):
    """The student's own past teaches it, and no stored labels: an average of its weights that keeps `ema` of itself
    `every` so many steps. `ema: 0` is the student as it was at the last of these."""

    ema: float = Field(default=0.999, ge=0, lt=1)
    every: PositiveInt = 1


class DistilConfig(Config):
    """How the student learns: `alpha` x T^2 x divergence from the labels + (1 - alpha) x cross-entropy on the targets.
    `alpha`, the `temperature` T and `beta` are numbers, or schedules over the budget (objectives/schedules.py); of a
    temperature, one in steps, or learned between such steps, all recorded.

    `divergence`: the forward KL to the labels with their drawn ids; any other is taken over the partition of the head
    and the rest, with its `beta` (objectives/divergences.py).
    `tokens`: `aligned` is for a student with other tokens than its teacher: where both have read as much of the target,
    probabilities are compared by rank (labels/aligned.py; with `divergence: total_variation` that is ULD).
    `on_policy`: let the student write some of the targets. `self_teacher`: learn from its own past, in place of labels.
    `features`: match hidden states or attention too, one such or a list. `weigh`: rows count by the probability of the
    teacher's first choice (`sure`), or by what is left of it (`unsure`). `curriculum`: easy examples first.
    `adapt` says which of the student's weights learn. `without_teacher` also trains the same student on gold targets
    for the same budget, for the comparison.
    """

    alpha: Annotated[Schedule, AfterValidator(_planned), AfterValidator(_share)] = Schedule.constant(0.7)
    temperature: Annotated[Schedule, AfterValidator(_temperature)] = Schedule.constant(1.0)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    divergence: Divergence = "forward_kl"
    beta: Annotated[Schedule, AfterValidator(_planned), AfterValidator(_inner_share)] = Schedule.constant(0.5)
    tokens: Tokens = "same"
    weigh: Weighing = "even"
    on_policy: OnPolicyConfig | None = None
    self_teacher: SelfTeacherConfig | None = None
    features: Annotated[tuple[FeaturesConfig, ...], BeforeValidator(_listed)] = ()
    curriculum: CurriculumConfig | None = None
    adapt: Adaptation = Adaptation()
    without_teacher: bool = True
    loop: LoopConfig

    @model_validator(mode="after")
    def _stored_labels_are_weighed(self) -> Self:
        if self.weigh != "even" and (self.on_policy or self.self_teacher):
            raise ValueError("weigh reads stored labels, of which on_policy and self_teacher have none; leave it out")
        if self.temperature.learned and (self.on_policy or self.self_teacher):
            raise ValueError("a learned temperature lies between recorded ones; leave on_policy and self_teacher out")
        return self

    @model_validator(mode="after")
    def _curriculum_has_labels(self) -> Self:
        if self.curriculum and not self.learns_from_labels:
            raise ValueError("a curriculum is read from the teacher's labels; raise alpha above 0, or leave it out")
        return self

    @model_validator(mode="after")
    def _aligned_is_by_rank(self) -> Self:
        what = None
        if self.features:
            what = "features, which pass the student's tokens through the teacher"
        elif self.on_policy or self.self_teacher:
            what = "on_policy or self_teacher, whose labels are in the student's own tokens"
        elif self.weigh != "even":
            what = f"weigh: {self.weigh}, since not every row meets one of the teacher's"
        elif self.curriculum and self.curriculum.by == "loss":
            what = "curriculum.by: loss, since labels do not tell of the student's tokens (by: entropy does)"
        if self.tokens == "aligned" and what:
            raise ValueError(f"tokens: aligned does not go with {what}; leave one out")
        return self

    @property
    def learns_from_labels(self) -> bool:
        """Whether stored distributions of the teacher count at all."""
        if self.self_teacher or (self.on_policy and min(self.on_policy.share.start, self.on_policy.share.end) == 1):
            return False
        return max(self.alpha.start, self.alpha.end) > 0

    @property
    def learns_its_tokens(self) -> bool:
        """Whether the student needs the teacher's tokens: for its labels, or because both pass over the same rows."""
        return self.learns_from_labels or self.wants_teacher

    @property
    def wants_teacher(self) -> bool:
        """Whether the teacher is asked while the student learns."""
        return bool(self.features) or (self.on_policy is not None and self.self_teacher is None)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """All at which labels are read."""
        return tuple(dict.fromkeys(self.temperature.values or ()))
