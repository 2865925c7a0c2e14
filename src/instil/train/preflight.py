"""Checks of the objective and of the loop: parts of one size, labels that help, settings that this machine can do."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from instil.core.problems import Grade, Problem, fail, graded, info, warn
from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.objectives.fused import Mix
from instil.objectives.schedules import Schedule
from instil.objectives.sparse import SparseLabels
from instil.train.config import LoopConfig
from instil.train.task import RowLoss, TextBatch

_RATIO, _MOST_RATIO = 30.0, 3000.0
_TEMPERATURES = 0.5, 10.0
_LEAST_ALPHA = 0.1
_PASSES, _MOST_PASSES = 4.0, 1000.0
_T5 = frozenset({"t5", "mt5", "umt5"})


def loop(name: str, config: LoopConfig, examples: Sequence[Encoded], records: int) -> list[Problem]:
    """What `config`, the section `name`, asks of this machine, and of batches of `records`, the first of which are
    `examples`."""
    of_data = [*batches(name, config, examples), *steps(name, config, examples, records)]
    return [*precision(name, config), *trackers(name, config), *of_data]


def precision(name: str, config: LoopConfig) -> list[Problem]:
    """Whether the device computes as the recipe says."""
    cuda = torch.cuda.is_available()
    if config.precision == "fp16" and not torch.accelerator.is_available():
        remedy = f"set {name}.precision: auto"
        return [
            fail("precision-unsupported", f"{name}.precision is fp16, which needs a GPU, and there is none", remedy)
        ]
    if config.precision == "bf16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        remedy = f"set {name}.precision: auto, which takes fp16 here"
        return [fail("precision-unsupported", f"{name}.precision is bf16, which this GPU has not", remedy)]
    if config.precision == "bf16" and not cuda:
        remedy = f"set {name}.precision: auto unless your processor has bf16 units"
        return [warn("precision-slow", f"{name}.precision is bf16, which most processors compute slowly", remedy)]
    return []


def trackers(name: str, config: LoopConfig) -> list[Problem]:
    """Whether what writes the learning curves is installed."""
    return [
        fail(
            "tracker-missing",
            f"{name}.trackers names {each}, which is not installed",
            f"pip install {each}, or leave it out",
        )
        for each in config.trackers
        if importlib.util.find_spec(each) is None
    ]


def batches(name: str, config: LoopConfig, examples: Sequence[Encoded]) -> list[Problem]:
    """Whether the longest example fits into a micro-batch."""
    longest = max((example.length for example in examples), default=0)
    if longest <= config.batch_tokens:
        return []
    evidence = f"the longest of {len(examples):,} examples has {longest:,} tokens"
    remedy = f"raise it to {2 ** math.ceil(math.log2(longest)):,}, or lower limits"
    what = f"{name}.batch_tokens is {config.batch_tokens:,}, which holds not one long example"
    return [fail("batch-small", what, remedy, evidence=evidence)]


def steps(name: str, config: LoopConfig, examples: Sequence[Encoded], records: int) -> list[Problem]:
    """Whether a step reads no more than there is."""
    if not examples:
        return []
    tokens = records * sum(example.length for example in examples) / len(examples)
    batches = max(1.0, tokens / config.batch_tokens, records / (config.batch_size or records))
    passes = config.accumulation / batches
    if (grade := graded(passes, warns=_PASSES, fails=_MOST_PASSES)) is None:
        return []
    what = f"{name}.accumulation is {config.accumulation:,}, so that a step reads all the data {passes:,.0f} times"
    remedy = f"lower it to {math.ceil(batches):,} or less"
    evidence = f"{records:,} records are about {math.ceil(batches):,} batches"
    return [Problem(grade=grade, code="step-large", what=what, remedy=remedy, evidence=evidence)]


def from_nothing(name: str, config: LoopConfig, architecture: str) -> list[Problem]:
    """Whether a model with random weights is trained as its `architecture` needs."""
    if architecture not in _T5 or config.optimizer == "adafactor":
        return []
    evidence = "its embeddings begin a hundred times as large as its queries, and Adam's steps are alike for both"
    remedy = f"set {name}.optimizer: adafactor, {name}.learning_rate: 0.01"
    what = f"a {architecture} with random weights learns slowly with {config.optimizer}"
    return [warn("optimizer-slow", what, remedy, evidence=evidence)]


def others(count: int, *, heard: bool) -> list[Problem]:
    """Whether the `count` further teachers of `labels.others` are `heard` by anything that is learned."""
    if heard or not count:
        return []
    what = f"the student learns from no distribution of the {count + 1} teachers, so labels.others adds nothing"
    return [warn("others-unused", what, "raise distil.alpha, leave self_teacher out, or leave labels.others out")]


def weights(
    alpha: Schedule, temperature: Schedule, *, own_texts: bool, asked: bool = False, own_past: bool = False
) -> list[Problem]:
    """Whether alpha and T are such as anybody has learned by. `own_texts`: targets are the teacher's. `asked`: a
    teacher in memory or behind a server shows its features, or scores what the student writes, whatever alpha is.
    `own_past`: labels are those of the student's own past."""
    most = max(alpha.start, alpha.end)
    if most == 0 and own_past:
        remedy = "set distil.alpha: 0.7, or leave self_teacher out"
        return [warn("teacher-unused", "distil.alpha is 0, so nothing is learned from self_teacher", remedy)]
    if most == 0 and not (own_texts or asked):
        remedy = "set distil.alpha: 0.7, or labels.targets: teacher to learn from its texts"
        return [
            warn(
                "teacher-unused",
                "distil.alpha is 0 and the targets are gold, so nothing is learned from the teacher",
                remedy,
            )
        ]
    if 0 < most < _LEAST_ALPHA and not asked:
        remedy = "set distil.alpha between 0.3 and 0.95"
        return [warn("alpha-low", f"distil.alpha is {alpha}, so the teacher hardly counts", remedy)]
    low, high = min(temperature.start, temperature.end), max(temperature.start, temperature.end)
    if most > 0 and not _TEMPERATURES[0] <= low <= high <= _TEMPERATURES[1]:
        remedy = "set distil.temperature and labels.temperatures between 1 and 4"
        return [warn("temperature-extreme", f"distil.temperature is {temperature}", remedy)]
    return []


def loss_scale(norms: Mapping[str, float]) -> list[Problem]:
    """Whether the parts of the objective pull alike: gradients' lengths within a factor of 30 of each other."""
    evidence = ", ".join(f"{name} {value:.3g}" for name, value in norms.items())
    if any(not math.isfinite(value) for value in norms.values()):
        remedy = "check the models' weights, and set precision: fp32"
        return [fail("loss-not-finite", "the loss has no finite gradient", remedy, evidence=evidence)]
    counted = {name: value for name, value in norms.items() if value > 0}
    if len(counted) < 2:
        return []
    ratio = max(counted.values()) / min(counted.values())
    if ratio <= _RATIO:
        return [info("loss-balanced", f"the parts of the loss are within a factor of {ratio:.1f}", evidence=evidence)]
    loudest = max(counted, key=counted.__getitem__)
    what = f"the {loudest} part of the loss drowns another by a factor of {ratio:,.0f}"
    remedy = "change distil.alpha, distil.temperature or distil.features.weight until both count"
    grade: Grade = "fail" if ratio > _MOST_RATIO else "warn"
    return [Problem(grade=grade, code="loss-scale", what=what, remedy=remedy, evidence=evidence)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What one labelled batch tells: each part's gradient over all weights, the soft loss a row in nats with the labels
    of their own rows and with those of others, and the seconds of a pass forward and back, the last one."""

    norms: Mapping[str, float]
    soft: float
    shuffled: float
    seconds: float


def canary(module: RowLoss, batch: TextBatch, features: RowLoss | None = None) -> Canary:
    """One batch through the student as training would take it, part by part; nothing is changed."""
    mix = module.mix
    norms: dict[str, float] = {}
    soft = shuffled = seconds = 0.0
    if batch.labels and mix.soft:
        part = _only(module, replace(mix, hard=0.0))
        shuffled = _shuffled_loss(part, batch)
        soft, norms["soft"], seconds = _gradient(part, batch)
    if mix.hard:
        alone = _only(module, Mix(hard=mix.hard, smoothing=mix.smoothing))
        _, norms["hard"], seconds = _gradient(alone, replace(batch, labels={}))
        norms["hard"] *= mix.hard
    if features is not None:
        features.mix_at = replace(mix, soft=0.0, hard=0.0)
        norms["features"] = _gradient(features.train(), batch)[1]
        features.eval()
    return Canary(norms=norms, soft=soft, shuffled=shuffled, seconds=seconds)


def _only(module: RowLoss, mix: Mix) -> RowLoss:
    return RowLoss(module.model, module.family, mix, module.weigh)


def _gradient(module: RowLoss, batch: TextBatch) -> tuple[float, float, float]:
    """Soft loss a row, the length of the gradient of the loss a row, and the seconds that both took."""
    learned = [parameter for parameter in module.model.parameters() if parameter.requires_grad]
    started = time.perf_counter()
    with torch.enable_grad():
        sums = module(batch)
        found = torch.autograd.grad(sums.total / batch.rows, learned, allow_unused=True)
    lengths = torch.stack(torch._foreach_norm([each for each in found if each is not None]))
    length = float(lengths.norm())
    return sums.soft / batch.rows, length, time.perf_counter() - started


@torch.no_grad()
def _shuffled_loss(module: RowLoss, batch: TextBatch) -> float:
    """The soft loss a row where each row has the labels of another."""
    order = torch.randperm(batch.rows, generator=torch.Generator().manual_seed(0))
    labels = {
        at: SparseLabels(ids_NK=each.ids_NK[order], probs_NK=each.probs_NK[order])
        for at, each in batch.labels.items()
        if isinstance(each, SparseLabels)
    }
    sums = module(replace(batch, labels=labels))
    return float(sums.soft) / batch.rows


def learnable(found: Canary, *, from_scratch: bool) -> list[Problem]:
    """Whether the labels' own rows are nearer to the student than others are; one from scratch cannot tell yet."""
    if not found.soft or from_scratch or found.shuffled > found.soft:
        return []
    evidence = f"{found.soft:.2f} nats a row, {found.shuffled:.2f} with shuffled labels"
    remedy = "check that teacher and student fit together; a student cut too deep starts as a stranger: keep more of it"
    return [
        warn("labels-strange", "the student is no nearer to its own labels than to others", remedy, evidence=evidence)
    ]


def live_labels(logits_NV: Tensor, temperature: float, most: int = 64) -> SparseLabels:
    """Labels of rows straight from the teacher's logits: the `most` probable ids."""
    probs_NV = (logits_NV.float() / temperature).softmax(-1)
    top = probs_NV.topk(min(most, probs_NV.shape[-1]), dim=-1)
    return SparseLabels(ids_NK=top.indices, probs_NK=top.values)


def text_batch(family: Family, examples: Sequence[Encoded], labels: Mapping[float, SparseLabels]) -> TextBatch:
    """One micro-batch of `examples` with their labels."""
    return TextBatch(family.collate(examples), labels, sum(example.length for example in examples))
