"""What a recipe may say about training: the budget, the batches, the optimizer, precision, checkpoints."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from instil.core.config import Config


class Budget(Config):
    """How long to train: exactly one of optimizer steps, epochs, tokens (prompt and target) or minutes of training."""

    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    tokens: PositiveInt | None = None
    minutes: PositiveFloat | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(f"give exactly one of steps, epochs, tokens, minutes; found {found}")
        return self

    def __str__(self) -> str:
        name, value = next((n, getattr(self, n)) for n in type(self).model_fields if getattr(self, n) is not None)
        return f"{value:g} {name}"


class LoopConfig(Config):
    """The one loop's settings. `batch_tokens` bounds a micro-batch (longest example x examples), padding included;
    an optimizer step takes `accumulation` of them on each process."""

    budget: Budget
    batch_tokens: PositiveInt = 2048
    batch_size: PositiveInt | None = Field(default=None, description="most examples in a micro-batch")
    accumulation: PositiveInt = 1
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """`adafactor` makes a matrix's step a share, `learning_rate`, of the matrix itself: what a T5 from scratch needs,
    whose embeddings are a hundred times as large as its queries. Rates about 0.01 are usual there."""
    learning_rate: PositiveFloat = 3e-4
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the budget")
    decay: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: PositiveFloat = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What each of several processes holds: all weights, or its share of weights, gradients and optimizer states."""
    checkpoint_minutes: PositiveFloat = 3.0
    checkpoint_steps: PositiveInt | None = Field(default=None, description="instead of checkpoint_minutes")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    validate_steps: PositiveInt | None = Field(default=None, description="steps between validation losses")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.optimizer == "adafactor" and "betas" in self.model_fields_set:
            raise ValueError("adafactor has no betas; leave them out, or set optimizer: adamw")
        if self.parallel == "fsdp" and self.optimizer != "adamw":
            raise ValueError(f"parallel: fsdp knows no {self.optimizer}; set optimizer: adamw, or parallel: ddp")
        if self.parallel == "fsdp" and self.precision == "fp16":
            raise ValueError("parallel: fsdp scales no losses, as fp16 needs; set precision: bf16 or fp32")
        return self

    def decisive(self) -> dict[str, Any]:
        """The settings that the result depends on: all but how it is computed, and where and how often written down."""
        how = {"checkpoint_minutes", "checkpoint_steps", "trackers", "parallel"}
        values = self.model_dump(mode="json", exclude=how)
        if self.optimizer == "adamw":  # Named where it is another, so that earlier runs are found again.
            del values["optimizer"]
        return values
