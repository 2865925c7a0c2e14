"""Jobs in bash: for a machine that is already there, and for Slurm."""

from __future__ import annotations

from instil.plan.jobs.steps import Job, install_line, label_lines, launcher, learn_lines, merge_lines, vault_lines


def torchrun_files(job: Job) -> dict[str, str]:
    """One script. On several machines each runs it with NODE_RANK and HEAD set, in a folder that all of them share."""
    rank, head = "${NODE_RANK:-0}", "${HEAD:-localhost}"
    lines = [
        "#!/usr/bin/env bash",
        f"# {job.plan}.",
        "# Run it in the recipe's folder; run it again after a failure, and it goes on.",
        "# HF_TOKEN, where a model needs it, comes from your environment.",
        "set -euo pipefail",
        install_line(job),
        *vault_lines(job),
        *label_lines(job, rank),
        *_after_all(job, rank),
        *learn_lines(job, launcher(job, rank=rank, head=head)),
    ]
    return {"job.sh": "\n".join(lines) + "\n"}


def _after_all(job: Job, rank: str) -> list[str]:
    """The first machine merges when all parts are there; the others wait for it."""
    merge = merge_lines(job)
    if not merge or job.plan.machines == 1:
        return merge
    finished = f"$(find runs -path '*label-part-*/manifest.json' | wc -l) -ge {job.parts}"
    return [
        f'if [ "{rank}" = 0 ]; then',
        f"  until [ {finished} ]; do sleep 10; done",
        *(f"  {line}" for line in merge),
        "fi",
        "until [ -d labels-whole/store ]; do sleep 10; done",
    ]


def slurm_files(job: Job) -> dict[str, str]:
    """A batch script that Slurm starts anew when a machine is taken away."""
    head = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    hours = max(1, round(job.plan.interval[1] * 1.2))
    lines = [
        "#!/usr/bin/env bash",
        f"#SBATCH --job-name={job.name}",
        f"#SBATCH --nodes={job.plan.machines}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={job.devices}",
        f"#SBATCH --time={hours}:00:00",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"# {job.plan}. Submit it in the recipe's folder: sbatch job.slurm",
        "set -euo pipefail",
        f"HEAD={head} && export HEAD",
        "srun --export=ALL bash -c 'NODE_RANK=$SLURM_NODEID bash job.sh'",
    ]
    return {"job.slurm": "\n".join(lines) + "\n", **torchrun_files(job)}
