"""The model card of a student: README.md in its folder, with the front matter that model hubs read.

It says how the model was made, so that whoever finds the folder can judge it, and how to use it without instil. Places
on the maker's machine stay out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from instil.core.manifest import versions
from instil.data.prompts import SLOT
from instil.data.tokens import Kind
from instil.models.folders import UNKNOWN_LICENCE
from instil.models.students.sizes import changes
from instil.models.wheels import PREFIX, WHEELS
from instil.run.recipe import Recipe
from instil.run.report.markdown import markdown
from instil.run.sections.teacher import TeacherConfig

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison

_CLASSES: dict[Kind, str] = {"decoder-only": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}


def student_card(
    recipe: Recipe, made: Mapping[str, Any], kind: Kind, *, learned: Mapping[str, Any] | None = None
) -> str:
    """The text of the card. `made` is the result of stage `student`; `learned` that of stage `distil`, with `labels`
    true where it had any, or None for a student that has not learned yet."""
    origin = made.get("origin") or recipe.teacher.model
    licence = made.get("licence")
    head = {
        "base_model": _hub_id(origin), "license": None if licence == UNKNOWN_LICENCE else licence,
        "library_name": "transformers", "pipeline_tag": "text-generation" if kind == "decoder-only" else None,
        "tags": ["instil", "knowledge-distillation"],
    }  # fmt: skip
    front = yaml.safe_dump({key: value for key, value in head.items() if value}, sort_keys=False)
    rows = [
        *_teachers(recipe),
        *_cuts(recipe, made),
        ("Parameters", f"{made['parameters']:,}"),
        *_texts(recipe),
    ]
    rows += [("Learned", _learned(recipe, learned)), ("Seed", str(recipe.seed_of_student)), ("Versions", _versions())]
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
    return f"---\n{front}---\n\n# {recipe.name}\n\n{_SUMMARY}\n\n| | |\n|---|---|\n{table}\n\n{_usage(recipe, kind)}"


RESULTS = "## Results"


def with_results(
    card: str, comparison: Comparison, data: str, further: Mapping[str, tuple[Comparison, str]] | None = None
) -> str:
    """`card` with what its model was measured to be on `data`, and on those of each `further` task: in words and
    tables, and in the front matter for hubs. Results that stand in it already are replaced."""
    tasks = further or {}
    _, front, text = card.split("---\n", 2)
    head = yaml.safe_load(front)
    found = [_result(head, comparison, _public(data))]
    found += [_result(head, each, _public(place), task) for task, (each, place) in tasks.items()]
    name = next(line for line in text.splitlines() if line.startswith("# ")).removeprefix("# ")
    head["model-index"] = [{"name": name, "results": found}]
    before, _, rest = text.partition(RESULTS)
    after = rest[rest.index("## Use") :] if rest else before[before.index("## Use") :]
    before = before if rest else before[: before.index("## Use")]
    results = f"{RESULTS}\n\n{markdown(comparison, {task: each for task, (each, _) in tasks.items()})}\n"
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{before}{results}{after}"


def _result(head: Mapping[str, Any], comparison: Comparison, data: str, task: str = "") -> dict[str, Any]:
    """The metrics as the hub's model cards have them."""
    student = comparison[comparison.student or ""]
    metrics = [
        {"type": "rouge", "name": f"ROUGE-{kind}", "value": round(getattr(student, f"rouge{kind}").value, 2)}
        for kind in ("1", "2", "L")
    ]
    kind = {"type": head.get("pipeline_tag", "text2text-generation")}
    dataset = {"type": data, "name": data} | ({"config": task} if task else {})
    return {"task": kind, "dataset": dataset, "metrics": metrics}


_SUMMARY = "A small model distilled from a large one with instil. It is a plain transformers model."


def _hub_id(ref: str) -> str | None:
    """What the hub calls the model `ref`, None for a file or folder of the maker's machine."""
    if ref.startswith(PREFIX):
        wheel = WHEELS.get(ref.removeprefix(PREFIX))
        return wheel.hub_id if wheel else None
    return ref if ref.count("/") == 1 and ref[0] not in "./~" and not Path(ref).exists() else None


def _public(place: str) -> str:
    """A place without the folders above it, which are the maker's own."""
    return place if ":" in place or not Path(place).is_absolute() else Path(place).name


def _teachers(recipe: Recipe) -> list[tuple[str, str]]:
    found = [("Teacher", _teacher(recipe.teacher, assistants=len(recipe.assistants)))]
    for other in recipe.labels.others:
        who = _teacher(other.teacher) if other.teacher else f"labels of {_public(str(other.store))}"
        shares = other.weight if isinstance(other.weight, dict) else {"weight": other.weight}
        weights = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        found.append(("Teacher beside it", f"{who}; {weights}, {recipe.labels.trust}"))
    return found


def _teacher(teacher: TeacherConfig, *, assistants: int = 0) -> str:
    parts = [_hub_id(teacher.model) or _public(teacher.model)]
    if teacher.revision:
        parts.append(f"revision {teacher.revision}")
    if teacher.scratch:
        parts.append("from scratch")
    if teacher.adapter:
        parts.append(f"with the adapter {_public(teacher.adapter)}")
    if teacher.teach:
        parts.append(f"taught for {teacher.teach.loop.budget} on the data")
    if assistants:
        parts.append(f"by way of {assistants} assistant{'s' if assistants > 1 else ''}")
    return ", ".join(parts)


def _cuts(recipe: Recipe, made: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    choice = recipe.student.choice if recipe.student else ""
    if origin := made.get("origin"):
        rows.append(("Student", f"a model of its own, {_hub_id(origin) or _public(origin)}"))
    for side, report in made.get("depth", {}).items():
        kept = ", ".join(map(str, report["kept"]))
        mended = f"; {len(report['mended'])} refitted in closed form" if report.get("mended") else ""
        of = f"{len(report['kept'])} of the teacher's {report['layers']} ({choice})"
        rows.append((f"Layers ({side})", f"{of}: {kept}{mended}"))
    if width := made.get("width"):
        rows.append(("Widths", changes(width["teacher"], width["student"]) or "the teacher's"))
    if vocabulary := made.get("vocabulary"):
        rows.append(("Tokens", f"{vocabulary['kept']:,} of the teacher's {vocabulary['of']:,}"))
    if scratch := made.get("scratch"):
        sizes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in scratch["sizes"].items())
        layers = ", ".join(f"{count} {side} layers" for side, count in scratch["layers"].items())
        rows.append(("From scratch", f"random weights; {layers}, {sizes}"))
    return rows


def _texts(recipe: Recipe) -> list[tuple[str, str]]:
    source = recipe.data.source or recipe.data.train or ""
    prompt = recipe.prompt.before(recipe.data.prefix)
    limits = f"source {recipe.limits.source} tokens, target {recipe.limits.target} tokens"
    tasks = [
        (f"Task {task.name}", f"{_public(task.source or task.train or source)}, {task.prefix!r} before each source")
        for task in recipe.data.also
    ]
    return [("Data", _public(source)), *tasks, ("Prompt", f"{prompt.kind} {prompt.text!r}"), ("Limits", limits)]


def _learned(recipe: Recipe, learned: Mapping[str, Any] | None) -> str:
    section = recipe.distil
    if learned is None or section is None:
        return "nothing yet: this is the student before it learns"
    budget = f"{section.loop.budget} ({learned['step']} steps)"
    if not learned.get("labels"):
        return f"{budget}; cross-entropy on the {recipe.labels.targets} targets"
    if section.on_policy:
        budget += f"; a share of {section.on_policy.share} of the batches written by the student itself"
    whose = "its own past's" if section.self_teacher else "the teachers'" if recipe.labels.others else "the teacher's"
    ranked = " by rank" if section.tokens == "aligned" else ""
    return (
        f"{budget}; alpha {section.alpha} of {section.divergence}{ranked} to {whose} distributions at temperature"
        f" {section.temperature}, the rest cross-entropy on the {recipe.labels.targets} targets"
    )


def _versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items() if name in ("instil", "transformers"))


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _usage(recipe: Recipe, kind: Kind) -> str:
    prompt, name = recipe.prompt.before(recipe.data.prefix), _CLASSES[kind]
    lines = [f"prompt = {(prompt.text if SLOT in prompt.text else prompt.text + SLOT)!r}.replace({SLOT!r}, source)"]
    if prompt.kind == "chat":
        system = [{"role": "system", "content": prompt.system}] if prompt.system is not None else []
        lines += [f"messages = {system} + [{{'role': 'user', 'content': prompt}}]"]
        lines += ["prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"]
    special = ", add_special_tokens=False" if prompt.kind == "chat" else ""
    steps = "\n".join(lines)
    shown = "written[0]" if kind == "encoder-decoder" else 'written[0, inputs["input_ids"].shape[1] :]'
    return f"""## Use

```python
from transformers import {name}, AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {name}.from_pretrained(folder)
source = "the text to work on"
{steps}
inputs = tokenizer(prompt, return_tensors="pt"{special})
written = model.generate(**inputs, max_new_tokens={recipe.limits.target}, do_sample=False)
print(tokenizer.decode({shown}, skip_special_tokens=True))
```
"""
