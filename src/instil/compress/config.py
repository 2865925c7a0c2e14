"""What a recipe may say about compressing. No torch here, so that recipes read fast."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from instil.core.config import Config
from instil.train.config import LoopConfig

Method = Literal["int8", "int4", "magnitude", "2:4", "structured"]


class CompressConfig(Config):
    """How a trained student gets smaller. With a `loop` it recovers, learning from the same labels as before.

    `int8`: a scale a row, as CTranslate2 keeps weights; `int4`: a scale for 32 weights of a row, as GGUF's q4_0 does.
    With a loop the student trains with rounded weights (and with `activations` the layers' inputs rounded too, each
    token to 8 bits, as CTranslate2 computes), gradients passing straight through the rounding.
    `magnitude`: the `sparsity` smallest weights of each matrix become zero; `2:4`: the two smaller of each four;
    `structured`: the share `sparsity` of the feed-forward units goes, and the matrices get smaller.
    Embedding and head stay as they are.
    """

    method: Method
    sparsity: float = Field(default=0.5, gt=0, lt=1)
    activations: bool = False
    loop: LoopConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.activations and self.method != "int8":
            raise ValueError("activations are rounded with method: int8 only; leave them out")
        return self
