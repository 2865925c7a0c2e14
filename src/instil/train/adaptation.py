"""Which of a model's weights are trained, as a recipe says it. No torch here, so that recipes read fast."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from instil.core.config import Config


class Adaptation(Config):
    """Which weights are trained. `full`: all. `last`: the last `layers` layers. `lora`: an adapter of `rank` on the
    linear layers (Hu et al. 2021, arXiv 2106.09685), on the last `layers` layers or, when that is not given, on all.
    `dora`: the same with the weights' norms learned apart (Liu et al. 2024, arXiv 2402.09353). `qlora`: as `lora`, the
    layers in four bits meanwhile (arXiv 2305.14314; train/quantised.py).
    """

    kind: Literal["full", "last", "lora", "dora", "qlora"] = "full"
    layers: PositiveInt | None = None
    rank: PositiveInt = 8
    alpha: PositiveFloat | None = Field(default=None, description="LoRA scale numerator; 2 x rank when not given")
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def by_adapter(self) -> bool:
        """Whether the model's own weights stay as they are."""
        return self.kind in ("lora", "dora", "qlora")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "last" and self.layers is None:
            raise ValueError("kind: last trains the last layers; say how many with layers")
        return self
