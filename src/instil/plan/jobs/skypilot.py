"""A task of SkyPilot: `sky jobs launch` finds the machine, and another one when it is taken away."""

from __future__ import annotations

from typing import Any

from instil.plan.jobs import shell
from instil.plan.jobs.steps import Job
from instil.plan.jobs.writing import as_yaml


def files(job: Job) -> dict[str, str]:
    """task.yaml, and the script that it runs on each machine."""
    instance = job.plan.instance
    resources: dict[str, Any] = {
        "infra": f"{instance.cloud}/{instance.region}",
        "instance_type": instance.name,
        "use_spot": job.wish.spot,
        "disk_size": 512,
    }
    if instance.device.is_tpu:
        del resources["instance_type"]
        resources["accelerators"] = f"tpu-{instance.name}:1"
    made: dict[str, Any] = {
        "name": job.name,
        "workdir": ".",
        "num_nodes": job.plan.machines,
        "resources": resources,
        # What is written here outlives the machine, so a task that starts again goes on there.
        "file_mounts": {"/instil": {"name": f"instil-{job.name}", "mode": "MOUNT"}},
        # The value comes from the launcher: sky jobs launch --secret HF_TOKEN task.yaml
        "secrets": {"HF_TOKEN": ""},
        "run": "cp -rn ./* /instil/ && cd /instil\n"
        'NODE_RANK=$SKYPILOT_NODE_RANK HEAD="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)" bash job.sh\n',
    }
    return {"task.yaml": as_yaml(made), **shell.torchrun_files(job)}
