"""A plan as a job that a cluster runs: label in parts, merge, train, evaluate; killed, it goes on where it was.

No file holds a secret. Clouds hand them in: a vault through the machine's own identity, or the launcher's environment.
"""

from __future__ import annotations

from collections.abc import Callable

from instil.core.errors import ConfigError
from instil.plan.choice import Choice
from instil.plan.jobs import azureml, ray, shell, skypilot
from instil.plan.jobs.steps import Job, job_of
from instil.plan.tables import choose

WRITERS: dict[str, Callable[[Job], dict[str, str]]] = {
    "azureml": azureml.files,
    "skypilot": skypilot.files,
    "slurm": shell.slurm_files,
    "torchrun": shell.torchrun_files,
    "ray": ray.files,
}


def job_files(choice: Choice, kind: str, *, recipe: str, vault: str | None = None) -> dict[str, str]:
    """A job's files of that kind, by name. Raises `ConfigError` where there is no plan or the kind cannot run it."""
    write = choose(kind, WRITERS, "kind of job")
    if choice.best is None:
        raise ConfigError(f"there is no plan to make a job of: {choice.obstacle}; ask without --emit for the nearest")
    return write(job_of(choice.best, choice.wish, recipe=recipe, vault=vault))
