"""Section `distil`: how the student learns."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from instil.core.config import Config
from instil.objectives.config import Divergence, FeatureLoss, Weighing
from instil.objectives.schedules import Schedule
from instil.train.adaptation import Adaptation
from instil.train.config import LoopConfig


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
        raise ValueError("give a number above 0, or a schedule of shape: steps between such")
    return schedule


class FeaturesConfig(Config):
    """Draw hidden states at the rows to those of the teacher, which is then in memory: the mean over pairs of layers
    of the relative squared error (`mse`) or of 1 - cosine, times `weight`. `layers`: pairs of numbers, the student's
    and the teacher's; `auto` pairs each with what follows it in the teacher (train/features.py)."""

    weight: Annotated[Schedule, AfterValidator(_weight)] = Schedule.constant(1.0)
    kind: FeatureLoss = "mse"
    layers: Literal["auto"] | tuple[tuple[NonNegativeInt, NonNegativeInt], ...] = "auto"


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
    temperature, one in steps, all recorded.

    `divergence`: the forward KL to the labels with their drawn ids; any other is taken over the partition of the head
    and the rest, with its `beta` (objectives/divergences.py).
    `on_policy`: let the student write some of the targets. `self_teacher`: learn from its own past, in place of labels.
    `features`: match hidden states too. `weigh`: rows count by the probability of the teacher's first choice
    (`sure`), or by what is left of it (`unsure`).
    `adapt` says which of the student's weights learn. `without_teacher` also trains the same student on gold targets
    for the same budget, for the comparison.
    """

    alpha: Annotated[Schedule, AfterValidator(_share)] = Schedule.constant(0.7)
    temperature: Annotated[Schedule, AfterValidator(_temperature)] = Schedule.constant(1.0)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    divergence: Divergence = "forward_kl"
    beta: Annotated[Schedule, AfterValidator(_inner_share)] = Schedule.constant(0.5)
    weigh: Weighing = "even"
    on_policy: OnPolicyConfig | None = None
    self_teacher: SelfTeacherConfig | None = None
    features: FeaturesConfig | None = None
    adapt: Adaptation = Adaptation()
    without_teacher: bool = True
    loop: LoopConfig

    @model_validator(mode="after")
    def _stored_labels_are_weighed(self) -> Self:
        if self.weigh != "even" and (self.on_policy or self.self_teacher):
            raise ValueError("weigh reads stored labels, of which on_policy and self_teacher have none; leave it out")
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
        return self.features is not None or (self.on_policy is not None and self.self_teacher is None)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """All at which labels are read."""
        return tuple(dict.fromkeys(self.temperature.values or ()))
