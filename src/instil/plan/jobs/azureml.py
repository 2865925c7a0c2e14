"""A command job of Azure Machine Learning on serverless compute, with the workspace's managed identity."""

from __future__ import annotations

from typing import Any

from instil.core.errors import ConfigError
from instil.plan.jobs import shell
from instil.plan.jobs.steps import Job
from instil.plan.jobs.writing import as_yaml

SCHEMA = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json"
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda12.1-cudnn8-ubuntu22.04:latest"


def files(job: Job) -> dict[str, str]:
    """job.yaml for `az ml job create`, and the script that it runs."""
    instance = job.plan.instance
    if instance.cloud != "azure":
        raise ConfigError(f"--emit azureml: the plan is on {instance.cloud}; ask with --cloud azure")
    runs = f"azureml://datastores/workspaceblobstore/paths/instil/{job.name}"
    made: dict[str, Any] = {
        "$schema": SCHEMA,
        "type": "command",
        "display_name": job.name,
        "experiment_name": "instil",
        "description": f"{job.plan}. Submit: az ml job create --file job.yaml",
        "code": ".",
        # Everything is written into the mounted folder, so a job that starts again goes on there.
        "command": "cp -rn ./* ${{outputs.work}}/ && cd ${{outputs.work}} && "
        "NODE_RANK=${NODE_RANK:-0} HEAD=${MASTER_ADDR:-localhost} bash job.sh",
        "environment": {"image": IMAGE},
        "resources": {"instance_type": instance.name, "instance_count": job.plan.machines},
        "identity": {"type": "managed"},
        "outputs": {"work": {"type": "uri_folder", "mode": "rw_mount", "path": runs}},
        "limits": {"timeout": round(job.plan.interval[1] * 1.2 * 3600)},
    }
    if job.wish.spot:
        made["queue_settings"] = {"job_tier": "spot"}
    if job.plan.machines > 1:
        made["distribution"] = {"type": "pytorch", "process_count_per_instance": 1}
    return {"job.yaml": as_yaml(made), **shell.torchrun_files(job)}
