"""Section `student`: who learns: the teacher made smaller, a model of its own, or one from scratch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from instil.core.config import Config
from instil.models.students.plan import Widths
from instil.models.students.vocabulary.pieces import Words


class VocabularyConfig(Config):
    """Keep so many `tokens`, or just those `used`: whatever targets, prompt, special names and the spelling of any text
    need, then the most frequent of the training sources. Rarer words of the sources fall into smaller pieces.

    `words`: tokens stay with the shorter ones that they are merged from ("merged"), or a word that is a token is taken
    as it is ("whole"), which leaves room for a few more words. llama.cpp reads so only texts that are cut as Llama 3 or
    Tekken cut them; `instil export --to gguf` refuses the others."""

    tokens: PositiveInt | Literal["used"]
    words: Words = "merged"

    @property
    def size(self) -> int | None:
        """The number of tokens that is asked for; None for those used."""
        return None if self.tokens == "used" else self.tokens


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
    `vocabulary`: keep only a part of the tokens.
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
    vocabulary: VocabularyConfig | None = None

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
        if not (self.model or self.scratch or cut or self.choice == "taught" or self.vocabulary):
            raise ValueError("neither a model nor layers to keep; set layers, width, vocabulary, scratch or model")
        return self
