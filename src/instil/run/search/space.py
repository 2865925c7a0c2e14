"""The candidates of a search, and what each weighs by arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from instil.core.errors import ConfigError, ModelError
from instil.models.students.anatomy import Anatomy
from instil.models.students.plan import Widths
from instil.models.students.sizes import Sizes, planned
from instil.plan.shape import Shape, parameters
from instil.plan.work import forward_flops
from instil.run.search.wish import Choices, Limits
from instil.run.sections.student import StudentConfig

_COUNTS = 8
_SHARES = (0.25, 0.5, 0.75, 1.0)
_WIDTHS = ("hidden", "feed_forward", "heads")
_FP32_BYTES = 4
_OPTIONS = {"parameters": "--max-parameters", "bytes": "--max-bytes", "flops": "--max-flops"}

Tokens = Mapping[int | str, int]
"""How many tokens a student has with each vocabulary that may be chosen."""
Pair = tuple[int | None, int | None]
"""Hidden channels and query heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A student: its decoder and encoder layers, hidden channels, feed-forward units, query heads and tokens; None for
    what the teacher lacks, or what cannot be cut in it."""

    layers: int
    encoder_layers: int | None
    hidden: int | None
    feed_forward: int | None
    heads: int | None
    vocabulary: int | str

    def __str__(self) -> str:
        named = {name.replace("_", " "): value for name, value in asdict(self).items() if value is not None}
        return ", ".join(f"{name} {value}" for name, value in named.items())

    def covers(self, other: Candidate, tokens: Tokens) -> bool:
        """Whether this one is nowhere smaller than `other`."""
        return all(own >= theirs for own, theirs in zip(self.sizes(tokens), other.sizes(tokens), strict=True))

    def sizes(self, tokens: Tokens) -> tuple[int, ...]:
        """All six as numbers."""
        widths = (self.hidden or 0, self.feed_forward or 0, self.heads or 0)
        return self.layers, self.encoder_layers or 0, *widths, tokens[self.vocabulary]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Which widths go together: those of the `teacher`, and what its architecture's `anatomy` allows beside them."""

    teacher: Sizes
    anatomy: Anatomy

    def sizes(self, hidden: int | None, heads: int | None) -> Sizes:
        """All sizes of a student with so many hidden channels and query heads; what is None stays, or follows. Raises
        `ModelError` where they do not go together."""
        return planned(Widths(hidden=hidden, heads=heads), self.teacher, self.anatomy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What may be tried of each size of the teacher, `whole`; of hidden channels and heads only the `pairs` that go
    together."""

    whole: Candidate
    layers: tuple[int, ...]
    encoder_layers: tuple[int | None, ...]
    feed_forward: tuple[int | None, ...]
    vocabulary: tuple[int | str, ...]
    pairs: tuple[Pair, ...]

    @property
    def hidden(self) -> tuple[int | None, ...]:
        """The numbers of hidden channels."""
        return tuple(dict.fromkeys(hidden for hidden, _ in self.pairs))

    @property
    def heads(self) -> tuple[int | None, ...]:
        """The numbers of heads."""
        return tuple(dict.fromkeys(heads for _, heads in self.pairs))

    def values(self) -> dict[str, Sequence[int | str | None]]:
        """The choices by name."""
        return {field.name: getattr(self, field.name) for field in fields(Candidate)}

    def candidates(self) -> list[Candidate]:
        """All of them."""
        named = self.values()
        every = (Candidate(**dict(zip(named, each, strict=True))) for each in product(*named.values()))  # type: ignore[arg-type]
        return [each for each in every if (each.hidden, each.heads) in self.pairs]

    def section(self, candidate: Candidate, basis: StudentConfig | None) -> StudentConfig:
        """The section `student` that makes it, with what `basis` says of choosing and mending. A list of layers in
        `basis` holds where it has so many. What is as in the teacher is left out."""
        basis = basis or StudentConfig(layers=candidate.layers)
        values: dict[str, Any] = {"calibration": basis.calibration}
        if basis.keep is None:
            values |= {"layers": candidate.layers, "choice": basis.choice, "mend": basis.mend}
        elif len(basis.keep) == candidate.layers:
            values |= {"choice": "listed", "keep": basis.keep, "mend": basis.mend}
        else:
            values["layers"] = candidate.layers
        if candidate.encoder_layers != self.whole.encoder_layers:
            values["encoder_layers"] = candidate.encoder_layers
        sizes = {name: getattr(candidate, name) for name in _WIDTHS}
        if width := {name: size for name, size in sizes.items() if size != getattr(self.whole, name)}:
            values["width"] = width
        if candidate.vocabulary != "all":
            values["vocabulary"] = {"tokens": candidate.vocabulary}
        return StudentConfig.model_validate(values)


def space_of(choices: Choices, whole: Candidate, frame: Frame | None) -> Space:
    """The space of a teacher of the sizes `whole`, whose widths go by `frame`, None where they cannot be cut. Raises
    `ConfigError` for choices that it does not have, or that go with none of the others."""
    for name in ("layers", "encoder_layers", *_WIDTHS):
        asked, most = getattr(choices, name), getattr(whole, name)
        if asked and max(asked) > (most or 0):
            has = f"has {most}" if most else "has none that can be cut"
            raise ConfigError(
                f"--{name.replace('_', '-')} {max(asked)}, but the teacher {has}; give 1 to {most}, or leave it out"
                if most
                else f"--{name.replace('_', '-')} {max(asked)}, but the teacher {has}; leave it out"
            )
    return Space(
        whole=whole,
        layers=choices.layers or _counts(whole.layers),
        encoder_layers=choices.encoder_layers or _counts_or_none(whole.encoder_layers),
        feed_forward=choices.feed_forward or _shares(whole.feed_forward),
        vocabulary=choices.vocabulary or ("all", "used"),
        pairs=_pairs(choices, frame) if frame and (choices.hidden or choices.heads) else ((whole.hidden, whole.heads),),
    )


def _pairs(choices: Choices, frame: Frame) -> tuple[Pair, ...]:
    """What goes together of the hidden channels and heads that are asked for. Where heads share the hidden channels,
    either follows the other."""
    hidden: tuple[int | None, ...] = choices.hidden or (frame.teacher.hidden,)
    heads: tuple[int | None, ...] = choices.heads or (None,)
    if frame.anatomy.head_size is None and not choices.hidden:
        hidden = tuple(each * frame.teacher.head_size for each in choices.heads)
    found: dict[Pair, Sizes] = {}
    refused: dict[Pair, ModelError] = {}
    for pair in product(hidden, heads):
        try:
            found[pair] = frame.sizes(*pair)
        except ModelError as error:
            refused[pair] = error
    for pair, reason in refused.items():
        if any(pair[place] not in {each[place] for each in found} for place in (0, 1)):
            raise ConfigError(str(reason)) from reason
    return tuple((sizes.hidden, sizes.heads) for sizes in found.values())


def _counts(most: int) -> tuple[int, ...]:
    steps = min(most, _COUNTS)
    return tuple(sorted({round(most * step / steps) for step in range(1, steps + 1)}))


def _counts_or_none(most: int | None) -> tuple[int | None, ...]:
    return (None,) if most is None else _counts(most)


def _shares(most: int | None) -> tuple[int | None, ...]:
    return (None,) if most is None else tuple(dict.fromkeys(max(1, round(share * most)) for share in _SHARES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Weighs candidates: the teacher's `shape` and the `frame` of its widths, the `tokens` of each vocabulary, and a
    mean example."""

    shape: Shape
    frame: Frame | None
    tokens: Tokens
    source: float
    target: float

    def weigh(self, candidate: Candidate) -> dict[str, float]:
        """Its parameters, bytes and FLOPs."""
        whole = self.shape
        shape = replace(
            self._narrowed(candidate), layers=candidate.layers, encoder_layers=candidate.encoder_layers or 0,
            inner=candidate.feed_forward or whole.inner, vocabulary=self.tokens[candidate.vocabulary],
            windowed=round(whole.windowed * candidate.layers / whole.layers),
        )  # fmt: skip
        count = parameters(shape)
        flops = forward_flops(shape, self.source, self.target).total
        return {"parameters": count, "bytes": count * _FP32_BYTES, "flops": flops}

    def _narrowed(self, candidate: Candidate) -> Shape:
        """The teacher's shape with the hidden channels and heads of `candidate`."""
        frame = self.frame
        if frame is None or (candidate.hidden, candidate.heads) == (frame.teacher.hidden, frame.teacher.heads):
            return self.shape
        sizes = frame.sizes(candidate.hidden, candidate.heads)
        return replace(self.shape, width=sizes.hidden, heads=sizes.heads, kv_heads=sizes.key_value_heads)

    def within(self, candidates: Sequence[Candidate], limits: Limits) -> list[Candidate]:
        """Those that keep to `limits`, the smallest first. Raises `ConfigError` where none does, with the nearest."""
        bounds = {name: bound for name in _OPTIONS if (bound := getattr(limits, name)) is not None}
        excess = {
            each: max([0.0, *(self.weigh(each)[name] / most for name, most in bounds.items())]) for each in candidates
        }
        found = [each for each in candidates if excess[each] <= 1]
        if not found:
            nearest = min(candidates, key=excess.__getitem__)
            weights = self.weigh(nearest)
            worst = max(bounds, key=lambda name: weights[name] / bounds[name])
            raise ConfigError(
                f"{_OPTIONS[worst]} {bounds[worst]:,.0f}: no student of this teacher is so small; the nearest"
                f" ({nearest}) has {weights[worst]:,.0f} {worst}; raise the limit, or allow smaller sizes"
            )
        return sorted(found, key=lambda each: self.weigh(each)["flops"])
