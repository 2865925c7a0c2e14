"""What every kind of job does, as lines of bash."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from instil.plan.choice import Candidate
from instil.plan.wish import Way, Wish

STORE = "labels-whole"
"""Where the merged labels lie, beside the runs."""
_WRITTEN = "--set labels.targets=teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A plan on its way to a cluster. `copies` of the teacher label at once on each machine, `each` devices a copy."""

    name: str
    plan: Candidate
    wish: Wish
    recipe: str
    vault: str | None
    copies: int
    each: int

    @property
    def devices(self) -> int:
        """Of one machine."""
        return self.plan.instance.count

    @property
    def parts(self) -> int:
        """Of the labels, over all machines."""
        return self.copies * self.plan.machines

    def has(self, stage: str) -> bool:
        """Whether the plan has a stage of this name."""
        return any(each.name == stage for each in self.plan.stages)


def job_of(plan: Candidate, wish: Wish, *, recipe: str, vault: str | None) -> Job:
    """The job of a plan."""
    reading = [stage for stage in plan.stages if stage.name == "label"]
    each = reading[0].layout.tensor if reading else plan.instance.count
    name = re.sub(r"[^a-z0-9]+", "-", f"{wish.teacher}-teaches-{wish.student}".lower()).strip("-")
    return Job(
        name=name, plan=plan, wish=wish, recipe=recipe, vault=vault, each=each,
        copies=max(1, plan.instance.count // each),
    )  # fmt: skip


_ADAPTERS: dict[Way, str] = {"labels-lora": "lora", "labels-qlora": "qlora"}
"""The kind of adapter of a way, as recipes call it."""


def install_line(job: Job) -> str:
    """The package, with what the way needs."""
    return "python -m pip install --quiet " + ("'instil[qlora]'" if job.plan.way == "labels-qlora" else "instil")


def label_line(job: Job, part: str) -> str:
    """The labelling of a part; all of it where the teacher writes targets too, which one process does."""
    return f"instil label {job.recipe} " + (_WRITTEN if job.has("write") else f"--part {part}")


def label_lines(job: Job, rank: str = "0") -> list[str]:
    """Each copy of the teacher labels its part on devices of its own; `rank` is the machine's number, in bash."""
    if job.has("write"):
        return [
            f"instil data {job.recipe}",
            "# One process writes the teacher's texts and labels them. The plan counts with an engine on all devices:",
            "# name a server in teacher.served for that.",
            f'if [ "{rank}" = 0 ]; then {label_line(job, "")}; fi',
            "until [ -n \"$(find runs -path '*/label-*/manifest.json')\" ]; do sleep 10; done",
        ]
    if not job.has("label"):
        return []
    label = label_line(job, f'"$part/{job.parts}"')
    return [
        f"instil data {job.recipe}",
        "pids=()",
        f"for copy in $(seq 0 {job.copies - 1}); do",
        f"  part=$(({rank} * {job.copies} + copy + 1))",
        f"  devices=$(seq -s, $((copy * {job.each})) $(((copy + 1) * {job.each} - 1)))",
        f"  CUDA_VISIBLE_DEVICES=$devices {label} &",
        '  pids+=("$!")',
        "done",
        'for pid in "${pids[@]}"; do wait "$pid"; done',
    ]


def merge_lines(job: Job) -> list[str]:
    """The parts become one store, once."""
    if job.has("write") or not job.has("label"):
        return []
    return [f"[ -d {STORE} ] || instil labels merge {STORE} runs/*/label-part-*"]


def learn_lines(job: Job, launch: str) -> list[str]:
    """Training under `launch`, then evaluation by one process."""
    chosen = _chosen(job)
    return [f"{launch} instil distil {job.recipe}{chosen}", f"instil evaluate {job.recipe}{chosen}"]


def _chosen(job: Job) -> str:
    """The plan's settings, over the recipe's: what is trained, for how long, and in which batches."""
    train = next(stage for stage in job.plan.stages if stage.name == "train")
    at_once = train.micro_batch * train.layout.devices
    loop = {
        "budget": f"'{{epochs: {job.wish.epochs:g}}}'",
        "batch_size": train.micro_batch,
        # Twice what the mean examples take, so that longer ones have room.
        "batch_tokens": math.ceil(2 * train.micro_batch * job.wish.length),
        "accumulation": max(1, round(job.wish.batch / at_once)),
    }
    if train.layout.sharding == "zero3":
        loop["parallel"] = "fsdp"
    if train.layout.checkpointing:
        loop["gradient_checkpointing"] = "true"
    chosen = {f"distil.loop.{name}": value for name, value in loop.items()}
    if kind := _ADAPTERS.get(job.plan.way):
        chosen["distil.adapt.kind"] = kind
    if merge_lines(job):
        chosen["labels.store"] = STORE
    return "".join(f" --set {name}={value}" for name, value in chosen.items()) + (
        f" {_WRITTEN}" if job.has("write") else ""
    )


def launcher(job: Job, *, rank: str = "0", head: str = "localhost") -> str:
    """torchrun over all machines; `rank` and `head` are bash."""
    if job.plan.devices == 1:
        return "env"
    several = f" --nnodes={job.plan.machines} --node-rank={rank} --master-addr={head} --master-port=29500"
    return f"torchrun --no-python --nproc-per-node={job.devices}" + (
        several if job.plan.machines > 1 else " --standalone"
    )


def vault_lines(job: Job) -> list[str]:
    """The hub's token from a vault, by the machine's own identity; nothing where none is needed."""
    if not job.vault:
        return []
    if job.plan.instance.cloud == "azure":
        read = (
            "from azure.identity import ManagedIdentityCredential as Identity; "
            "from azure.keyvault.secrets import SecretClient as Vault; "
            f"print(Vault('https://{job.vault}.vault.azure.net', Identity()).get_secret('hf-token').value)"
        )
        return [
            "python -m pip install --quiet azure-identity azure-keyvault-secrets",
            f'HF_TOKEN="$(python -c "{read}")" && export HF_TOKEN',
        ]
    return [f'HF_TOKEN="$(gcloud secrets versions access latest --secret={job.vault})" && export HF_TOKEN']
