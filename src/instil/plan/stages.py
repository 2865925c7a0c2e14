"""How long each stage takes on a cluster, and whether it fits: labelling, training, evaluation, and what lies between.

The layout of a stage is chosen here: of all that fit, the one that takes least time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from instil.plan.hardware import Accelerator
from instil.plan.inference import Serving, devices_needed, fits, request_seconds
from instil.plan.layout import Layout, Sharding
from instil.plan.memory import Method, Training, capacity, peak_memory, trainable_parameters
from instil.plan.shape import Shape, parameters
from instil.plan.time import Batch, step_time
from instil.plan.wish import Way, Wish
from instil.plan.work import forward_flops, load_of

BOOT_SECONDS = 300.0
"""Until a rented machine runs our first line: allocation, image, packages."""
LOADING_BYTES = 1e9
"""A second, from a hub or a disk in the network."""
EVALUATION_SHARE = 0.11
"""Of the time of MLPerf's fine-tuning runs that goes into evaluation (MLCommons, training results v4.0 to v5.0)."""
CHECKPOINT_BYTES = 1e9
"""A second, to a disk in the network."""
_METHODS: dict[Way, Method] = {"labels": "full", "labels-lora": "lora", "labels-qlora": "qlora", "online": "full"}
_READ_TOKENS = 16_384.0
"""Of a micro-batch in labelling, which keeps nothing for a backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`count` devices of a kind, in machines of `per_machine`."""

    device: Accelerator
    count: int
    per_machine: int

    @property
    def placed(self) -> Accelerator:
        """The device with the node that it really stands in."""
        return replace(self.device, node=min(self.device.node, self.per_machine))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage's seconds, how it is laid out, and the bytes of a device that it needs."""

    name: str
    seconds: float
    layout: Layout
    peak: float
    micro_batch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why a stage cannot run: `needed` bytes of a device that has `there`."""

    what: str
    needed: float
    there: float

    def __str__(self) -> str:
        return f"{self.what} needs {self.needed / 1e9:,.0f} GB of each device, which has {self.there / 1e9:,.0f} GB"


def label_stage(wish: Wish, teacher: Shape, cluster: Cluster) -> Stage | Misfit:
    """The teacher reads every example once, with its head on the target's tokens."""
    device = cluster.placed
    found = _reading_layout(teacher, cluster)
    if isinstance(found, Misfit):
        return found
    layout, peak = found
    many = max(1, int(_READ_TOKENS / wish.length))
    load = load_of(teacher, wish.source_tokens, wish.target_tokens, trainable=0, backward=0)
    batches = wish.examples / many / layout.replicas
    each = step_time(load, Batch(length=wish.length, sequences=many), device, layout, "general")
    return Stage(name="label", seconds=batches * each.seconds, layout=layout, peak=peak, micro_batch=many)


def _reading_layout(teacher: Shape, cluster: Cluster) -> tuple[Layout, float] | Misfit:
    """As few devices a copy as hold the weights in 16 bits and what passes through one layer."""
    room = capacity(cluster.device)
    needed = 0.0
    for tensor in _powers(cluster.per_machine):
        passing = _READ_TOKENS * 2 * (4 * teacher.width + 3 * teacher.inner / tensor)
        needed = 1.2e9 + parameters(teacher) * 2 / tensor + passing
        if needed <= room:
            return Layout(devices=cluster.count, tensor=tensor), needed
    return Misfit(what=f"reading with {teacher.name}", needed=needed, there=room)


def write_stage(wish: Wish, teacher: Shape, cluster: Cluster, requests: float, name: str = "write") -> Stage | Misfit:
    """`requests` answers of the teacher, from an engine that serves them at full load."""
    wanted = devices_needed(Serving(shape=teacher, device=cluster.device), wish.length)
    serving = Serving(shape=teacher, device=cluster.device, devices=wanted)
    if wanted > cluster.per_machine or not fits(serving, wish.length):
        whole = parameters(teacher) * 2 / cluster.per_machine
        return Misfit(what=f"serving {teacher.name}", needed=whole, there=capacity(cluster.device))
    layout = Layout(devices=cluster.count, tensor=wanted)
    seconds = requests * request_seconds(serving, wish.source_tokens, wish.target_tokens) / layout.replicas
    return Stage(name=name, seconds=seconds, layout=layout, peak=capacity(cluster.device) * 0.9)


def train_stage(wish: Wish, teacher: Shape, student: Shape, way: Way, cluster: Cluster) -> Stage | Misfit:
    """The student's optimizer steps; with `online` the teacher reads each batch besides."""
    best: Stage | None = None
    room, least = capacity(cluster.device), float("inf")
    for layout, many in _trainings(wish, way, cluster):
        run = _training(wish, teacher, student, way, layout, many)
        peak = peak_memory(run).peak
        least = min(least, peak)
        if peak > room:
            continue
        seconds = wish.trials * wish.steps * _step_seconds(wish, teacher, run, way, cluster.placed, many)
        if best is None or seconds < best.seconds:
            best = Stage(name="train", seconds=seconds, layout=layout, peak=peak, micro_batch=many)
    if best:
        return best
    if least == float("inf"):
        return Misfit(what=f"{cluster.count} devices for batches of {wish.batch}", needed=0, there=room)
    return Misfit(what=f"training {student.name} ({way})", needed=least, there=room)


def _trainings(wish: Wish, way: Way, cluster: Cluster) -> Iterator[tuple[Layout, int]]:
    """Layouts and sequences in a micro-batch that are worth a look, of those that instil can make."""
    if cluster.count > wish.batch:
        return
    share = wish.batch // cluster.count
    # Weights of 4 bits are not shared out.
    several: tuple[Sharding, ...] = ("none",) if way == "labels-qlora" else ("none", "zero3")
    for sharding in several if cluster.count > 1 else ("none",):
        for again in (0.0, 1.0):
            for many in _powers(min(share, max(1, int(_READ_TOKENS / wish.length)))):
                yield Layout(devices=cluster.count, sharding=sharding, checkpointing=again), many


def _training(wish: Wish, teacher: Shape, student: Shape, way: Way, layout: Layout, many: int) -> Training:
    return Training(
        shape=student, method=_METHODS[way], precision="mixed", tokens=many * wish.length, layout=layout,
        stack="general", teacher=teacher if way == "online" else None,
    )  # fmt: skip


def _step_seconds(wish: Wish, teacher: Shape, run: Training, way: Way, device: Accelerator, many: int) -> float:
    """One optimizer step of `wish.batch` examples."""
    batch = Batch(length=wish.length, sequences=many, micro_batches=max(1.0, wish.batch / (many * run.layout.replicas)))
    load = load_of(
        run.shape, wish.source_tokens, wish.target_tokens, trainable=trainable_parameters(run),
        backward=2.0 if run.method == "full" else 1.0,
    )  # fmt: skip
    seconds = step_time(load, batch, device, run.layout, "general").seconds
    if way == "online":
        reading = load_of(teacher, wish.source_tokens, wish.target_tokens, trainable=0, backward=0)
        seconds += step_time(reading, batch, device, replace(run.layout, checkpointing=0.0), "general").seconds
    return seconds * _QLORA_SLOWER if run.method == "qlora" else seconds


_QLORA_SLOWER = 1.15
"""Turning 4 bits into 16 before each product; 1.02 (torchtune, Llama 3.2 3B, A100) to 1.3 (Qwen 7B, A100)."""


def evaluation_seconds(wish: Wish, teacher: Shape, student: Shape, cluster: Cluster, training: float) -> float:
    """Validation while training, then answers of teacher and student to the same records."""
    along = training * EVALUATION_SHARE / (1 - EVALUATION_SHARE)
    answers = 0.0
    for shape in (teacher, student):
        stage = write_stage(wish, shape, cluster, wish.evaluated)
        answers += stage.seconds if isinstance(stage, Stage) else 0.0
    return along + answers


def start_seconds(*models: Shape) -> float:
    """Boot once, and load each model."""
    return BOOT_SECONDS + sum(parameters(model) * 2 / LOADING_BYTES for model in models)


def saving_seconds(student: Shape, way: Way, training: float) -> float:
    """Trained weights with their states in fp32, every half hour and at the end; then the whole student."""
    run = Training(shape=student, method=_METHODS[way])
    checkpoint = trainable_parameters(run) * 12 / CHECKPOINT_BYTES
    return (1 + training // 1800) * checkpoint + parameters(student) * 2 / CHECKPOINT_BYTES


def label_flops(wish: Wish, teacher: Shape) -> float:
    """FLOPs of labelling the whole data set."""
    return wish.examples * forward_flops(teacher, wish.source_tokens, wish.target_tokens).total


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**power for power in range(max(1, most).bit_length())]
