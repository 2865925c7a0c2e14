"""A script for a Ray cluster: labelling as tasks that Ray places and starts again, training as one more."""

from __future__ import annotations

from instil.core.errors import ConfigError
from instil.plan.jobs.steps import Job, label_line, launcher, learn_lines, merge_lines

_SCRIPT = '''"""{plan}. Run: ray job submit --working-dir . -- python job.py"""

import os
import subprocess

import ray

FOLDER = os.environ.get("INSTIL_FOLDER", os.getcwd())  # shared by all machines of the cluster


def run(command: str) -> None:
    """In bash, in the shared folder; a failure is the task's."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=FOLDER, check=True)


@ray.remote(num_gpus={each}, max_retries=5, retry_exceptions=True)
def label(part: int) -> None:
    """One copy of the teacher labels its part on the devices that Ray gave it."""
    run(f"{label}")


@ray.remote(num_gpus={devices}, max_retries=5, retry_exceptions=True)
def learn() -> None:
    """Training and evaluation; started again, they go on from the last checkpoint."""
    for command in {commands!r}:
        run(command)


if __name__ == "__main__":
    ray.init()
    run("instil data {recipe}")
    ray.get([label.remote(part) for part in range(1, {last} + 1)])
    ray.get(learn.remote())
'''


def files(job: Job) -> dict[str, str]:
    """job.py. Training takes one machine here; raises `ConfigError` for a plan of several."""
    if job.plan.machines > 1:
        raise ConfigError(
            f"--emit ray: the plan trains on {job.plan.machines} machines; ask for one with --gpus {job.devices}, or "
            "take --emit torchrun"
        )
    commands = [*merge_lines(job), *learn_lines(job, launcher(job))]
    last = 1 if job.has("write") else job.parts
    script = _SCRIPT.format(
        plan=job.plan, each=job.each, recipe=job.recipe, label=label_line(job, f"{{part}}/{last}"), last=last,
        devices=job.devices, commands=commands,
    )  # fmt: skip
    if not (job.has("write") or job.has("label")):
        script = script.replace(f"    ray.get([label.remote(part) for part in range(1, {last} + 1)])\n", "")
    return {"job.py": script}
