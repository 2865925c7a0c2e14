"""Jobs: each kind says the same steps, holds no secret, and is well formed for the tool that reads it."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from command import instil
from instil.core.errors import ConfigError
from instil.plan import prices
from instil.plan.choice import Choice, choose
from instil.plan.jobs import WRITERS, job_files
from instil.plan.layout import Layout, Sharding
from instil.plan.wish import Way, Wish
from instil.train.config import LoopConfig

OFFERED = prices.built_in()


def chosen(**more: object) -> Choice:
    """A plan on Azure, with changes."""
    asked = {"teacher": "gemma-3-27b", "student": "gemma-3-4b", "examples": 50_000, "within_hours": 3, "cloud": "azure"}
    return choose(Wish.model_validate({**asked, **more}), OFFERED)


ONE, MANY = chosen(), chosen(examples=500_000)


def set_by(script: str, stage: str) -> dict[str, Any]:
    """What a script sets over the recipe for `stage`, as a recipe reads it."""
    (line,) = [line for line in script.splitlines() if f"instil {stage} mine.yaml" in line]
    words = shlex.split(line)
    pairs = [words[place + 1].split("=", 1) for place, word in enumerate(words) if word == "--set"]
    return {name: yaml.safe_load(value) for name, value in pairs}


@pytest.mark.parametrize(("way", "kind", "package"), [
    ("labels", None, "instil"), ("labels-lora", "lora", "instil"), ("labels-qlora", "qlora", "'instil[qlora]'"),
])  # fmt: skip
def test_a_job_asks_for_its_plans_adapters_and_installs_what_they_need(way: Way, kind: str, package: str) -> None:
    assert ONE.best is not None
    choice = replace(ONE, best=replace(ONE.best, way=way))
    script = job_files(choice, "torchrun", recipe="mine.yaml")["job.sh"]
    assert f"pip install --quiet {package}\n" in script
    assert set_by(script, "distil").get("distil.adapt.kind") == kind
    assert set_by(script, "distil") == set_by(script, "evaluate")


@pytest.mark.parametrize("sharding", ["none", "zero3"])
def test_a_job_trains_in_the_batches_and_shares_of_its_plan(sharding: Sharding) -> None:
    assert ONE.best is not None and ONE.best.devices == 2
    layout = Layout(devices=2, sharding=sharding, checkpointing=1.0)
    stages = tuple(
        replace(stage, layout=layout, micro_batch=4) if stage.name == "train" else stage for stage in ONE.best.stages
    )
    choice = replace(ONE, best=replace(ONE.best, stages=stages))
    settings = set_by(job_files(choice, "slurm", recipe="mine.yaml")["job.sh"], "distil")
    assert settings.pop("labels.store") == "labels-whole"
    loop = LoopConfig.model_validate({name.removeprefix("distil.loop."): value for name, value in settings.items()})
    assert (loop.budget.epochs, loop.batch_size, loop.accumulation) == (3, 4, 8)  # 64 examples a step, on 2 devices.
    assert loop.batch_tokens == 2 * 4 * 920 and loop.gradient_checkpointing
    assert loop.parallel == ("fsdp" if sharding == "zero3" else "ddp")


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"ray"}))
@pytest.mark.parametrize("choice", [ONE, MANY], ids=["one machine", "several"])
def test_every_step_is_in_the_job(kind: str, choice: Choice, tmp_path: Path) -> None:
    assert choice.best is not None
    files = job_files(choice, kind, recipe="mine.yaml")
    script = files["job.sh"]
    places = [
        script.index(f"instil {step}") for step in ("data mine.yaml", "label mine.yaml", "labels merge", "distil")
    ]
    assert places == sorted(places) and f"--nproc-per-node={choice.best.instance.count}" in script
    assert ("--nnodes" in script) == (choice.best.machines > 1)
    for name in files:
        if name.endswith((".sh", ".slurm")):
            (tmp_path / name).write_text(files[name])
            assert subprocess.run(["bash", "-n", tmp_path / name], check=False).returncode == 0


def test_the_script_labels_every_part_once_on_devices_of_its_own(tmp_path: Path) -> None:
    """The script itself runs, with an `instil` that writes down how it was called."""
    assert MANY.best is not None
    script = job_files(MANY, "torchrun", recipe="mine.yaml")["job.sh"]
    (tmp_path / "job.sh").write_text(script)
    tools = tmp_path / "bin"
    tools.mkdir()
    said = tmp_path / "said"
    recorder = f"""#!/bin/bash
echo "$CUDA_VISIBLE_DEVICES|$*" >> {said}
case "$1 $2" in
  "label mine.yaml") d=runs/x/label-part-${{4%/*}}; mkdir -p $d; touch $d/manifest.json;;
  "labels merge") mkdir -p $3/store;;
esac
"""
    for name, text in {
        "instil": recorder,
        "torchrun": recorder,
        "python": "#!/bin/bash\n",
        "sleep": "#!/bin/bash\n",
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = {"PATH": f"{tools}:/usr/bin:/bin"}
    machines = [
        subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env={**path, "NODE_RANK": str(rank), "HEAD": "first"})
        for rank in range(MANY.best.machines)
    ]
    assert [machine.wait(timeout=30) for machine in machines] == [0] * len(machines)
    calls = said.read_text().splitlines()
    parts = sorted(re.findall(r"--part (\d+/\d+)", "\n".join(calls)), key=lambda part: int(part.partition("/")[0]))
    assert parts == [f"{number}/{MANY.best.devices}" for number in range(1, MANY.best.devices + 1)]
    assert {call.partition("|")[0] for call in calls if "label mine" in call} == {str(n) for n in range(8)}
    assert sum("labels merge" in call for call in calls) == 1
    assert sum("distil mine.yaml" in call and "--master-addr=first" in call for call in calls) == MANY.best.machines


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_no_file_holds_a_secret(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    for name, text in job_files(ONE, kind, recipe="mine.yaml", vault="keys").items():
        assert "verysecret" not in text, name
        assert not re.search(r"(?i)(token|key|password)\s*[:=]\s*['\"]?[a-z0-9_]{12,}", text), name


def test_the_vault_is_read_by_the_machines_own_identity() -> None:
    azure = job_files(ONE, "azureml", recipe="mine.yaml", vault="keys")
    assert "https://keys.vault.azure.net" in azure["job.sh"] and "ManagedIdentityCredential" in azure["job.sh"]
    assert yaml.safe_load(azure["job.yaml"])["identity"] == {"type": "managed"}
    google = job_files(chosen(cloud="gcp"), "skypilot", recipe="mine.yaml", vault="keys")
    assert "gcloud secrets versions access latest --secret=keys" in google["job.sh"]


def test_azure_machine_learning_reads_its_job(tmp_path: Path) -> None:
    files = job_files(MANY, "azureml", recipe="mine.yaml")
    told = yaml.safe_load(files["job.yaml"])
    assert MANY.best is not None
    assert told["resources"] == {"instance_type": MANY.best.instance.name, "instance_count": MANY.best.machines}
    assert told["distribution"]["process_count_per_instance"] == 1
    spot = yaml.safe_load(job_files(chosen(spot=True), "azureml", recipe="mine.yaml")["job.yaml"])
    assert spot["queue_settings"] == {"job_tier": "spot"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    ml = pytest.importorskip("azure.ai.ml", reason="azure-ai-ml is not installed")
    assert ml.load_job(tmp_path / "job.yaml").resources.instance_count == MANY.best.machines


def test_skypilot_reads_its_task(tmp_path: Path) -> None:
    files = job_files(MANY, "skypilot", recipe="mine.yaml")
    told = yaml.safe_load(files["task.yaml"])
    assert MANY.best is not None
    assert told["num_nodes"] == MANY.best.machines and told["secrets"] == {"HF_TOKEN": ""}
    schemas = pytest.importorskip("sky.utils.schemas", reason="skypilot is not installed")
    pytest.importorskip("jsonschema").validate(told, schemas.get_task_schema())


@pytest.mark.parametrize("kind", ["torchrun", "ray"])
def test_where_the_teacher_writes_the_targets_one_process_labels_them(kind: str, tmp_path: Path) -> None:
    choice = chosen(targets="teacher", within_hours=24)
    assert choice.best is not None and {"write", "label"} <= {stage.name for stage in choice.best.stages}
    (script,) = job_files(choice, kind, recipe="mine.yaml").values()
    assert script.count("instil label mine.yaml --set labels.targets=teacher") == 1
    assert "--part" not in script and "labels merge" not in script and "labels.store" not in script
    if kind == "torchrun":
        assert set_by(script, "distil")["labels.targets"] == set_by(script, "evaluate")["labels.targets"] == "teacher"
        (tmp_path / "job.sh").write_text(script)
        assert subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=False).returncode == 0
    else:
        ast.parse(script)
        assert "range(1, 1 + 1)" in script


def test_a_ray_script_is_python_and_takes_one_machine() -> None:
    script = job_files(ONE, "ray", recipe="mine.yaml")["job.py"]
    names = {node.name for node in ast.walk(ast.parse(script)) if isinstance(node, ast.FunctionDef)}
    assert names == {"run", "label", "learn"}
    with pytest.raises(ConfigError, match="trains on 2 machines"):
        job_files(MANY, "ray", recipe="mine.yaml")


@pytest.mark.parametrize(
    ("kind", "choice", "says"),
    [
        ("azureml", chosen(cloud="gcp"), "the plan is on gcp; ask with --cloud azure"),
        ("kubernetes", ONE, "unknown kind of job 'kubernetes'"),
        ("slurm", chosen(budget_usd=1), "there is no plan to make a job of"),
    ],
)
def test_what_cannot_be_a_job_is_refused(kind: str, choice: Choice, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job_files(choice, kind, recipe="mine.yaml")


def test_the_command_writes_the_files_and_names_them(tmp_path: Path) -> None:
    asked = ("--teacher", "gemma-3-4b", "--student", "gemma-3-1b", "--examples", "10k", "--cloud", "azure")
    ended = instil("plan", *asked, "--emit", "slurm", "--out", "mine", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["job"] == ["mine/job.slurm", "mine/job.sh"]
    assert (tmp_path / "mine" / "job.slurm").read_text().startswith("#!/usr/bin/env bash\n#SBATCH")
