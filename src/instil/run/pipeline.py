"""The stage graph of one recipe: each stage is made on first use, from the ones it needs, or found finished.

data -> teach (-> synthesise) -> label -> student -> distil (with labels, and without) -> compress -> evaluate -> report

Assistants, where there are any, stand behind teach: label -> student -> distil for each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from instil.core import console, publish, units
from instil.core.processes import is_first
from instil.evaluate.probe import PROBES, Probed, probe_systems
from instil.evaluate.results import Comparison
from instil.labels.writer import Part
from instil.models.folders import CARD_NAME
from instil.run.card import with_results
from instil.run.recipe import Recipe, resolved_yaml
from instil.run.search.search import run_search
from instil.run.search.wish import Wish
from instil.run.servable import SUMMARY_NAME
from instil.run.stage import Artifact, Workshop
from instil.run.stages.assistants import legs_of, run_assistants
from instil.run.stages.compress import run_compress
from instil.run.stages.data import Data, run_data
from instil.run.stages.distil import run_distil
from instil.run.stages.evaluate import (
    COMPRESSED,
    STUDENT,
    TEACHER,
    WITHOUT_TEACHER,
    read_comparison,
    run_evaluate,
    summary_of,
    systems_of,
)  # fmt: skip
from instil.run.stages.further import check_further, check_outputs
from instil.run.stages.label import Labels, write_part
from instil.run.stages.made_models import MODEL_NAME
from instil.run.stages.others import check_others, run_labels
from instil.run.stages.student import check_student, run_student
from instil.run.stages.synthesise import run_synthesise
from instil.run.stages.tasks import examined_records
from instil.run.stages.teach import Teacher, run_teach
from instil.run.stages.tokens import check_tokenizers, needs_labels
from instil.train.session import read_history

PROBE_NAME = "probe.json"


class Pipeline:
    """All stages of `recipe`; paths in it are relative to `base`."""

    def __init__(self, recipe: Recipe, base: Path) -> None:
        self.recipe = recipe
        self.base = base
        self.root = base / recipe.runs_dir / recipe.name
        self.shop = Workshop(
            root=self.root, recipe_yaml=resolved_yaml(recipe), seed=recipe.seed, student_seed=recipe.seed_of_student
        )

    @cached_property
    def data(self) -> Data:
        """Records by split."""
        return run_data(self.shop, self.recipe, self.base)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, taught where the recipe says so."""
        for recipe in (*legs_of(self.recipe), self.recipe):
            check_student(recipe)  # Before hours are spent on a teacher.
            check_tokenizers(recipe, self.data)
        check_others(self.recipe)
        return run_teach(self.shop, self.recipe, self.data)

    @cached_property
    def lesson(self) -> Data:
        """What the student is taught: the data, with what the teacher writes where the recipe wants that."""
        return run_synthesise(self.shop, self.recipe, self.base, self.data, self.teacher)

    @cached_property
    def instructor(self) -> Teacher:
        """Who teaches the student itself: the last of the recipe's assistants, or the teacher."""
        return run_assistants(self.shop, self.recipe, self.lesson, self.teacher)

    @cached_property
    def labels(self) -> Labels:
        """What the teacher knows about the train split."""
        return run_labels(self.shop, self.recipe, self.lesson, self.instructor)

    def label_part(self, number: int, of: int) -> Artifact:
        """The labels of every `of`-th shard, from the `number`-th on."""
        return write_part(self.shop, self.recipe, self.lesson, self.instructor, Part(number=number, of=of))

    @cached_property
    def untrained(self) -> Artifact:
        """The student before it learns."""
        labels = self.labels if needs_labels(self.recipe) else None
        return run_student(self.shop, self.recipe, self.lesson, self.instructor, labels)

    @cached_property
    def student(self) -> Artifact:
        """The distilled student."""
        return run_distil(self.shop, self.recipe, self.lesson, self.untrained, self.labels, self.instructor)

    @cached_property
    def without_teacher(self) -> Artifact | None:
        """The same student, trained for the same budget on gold targets alone; None where the recipe declines it."""
        if self.recipe.distil is None or not self.recipe.distil.without_teacher:
            return None
        return run_distil(self.shop, self.recipe, self.data, self.untrained, None)

    @cached_property
    def compressed(self) -> Artifact | None:
        """The distilled student with fewer bits or weights; None where the recipe asks for none."""
        section, distil = self.recipe.compress, self.recipe.distil
        if section is None or distil is None:
            return None
        return run_compress(self.shop, self.recipe, section, distil, self.lesson, self.student, self.labels)

    @property
    def students(self) -> dict[str, Artifact]:
        """The trained students by the names that reports use."""
        if self.recipe.distil is None:
            return {}
        students = {STUDENT: self.student}
        if self.compressed:
            students[COMPRESSED] = self.compressed
        return students | ({WITHOUT_TEACHER: self.without_teacher} if self.without_teacher else {})

    @cached_property
    def evaluation(self) -> Artifact:
        """The comparison of all systems."""
        self._check_systems()
        return run_evaluate(self.shop, self.recipe, self.data, self.teacher, self.students, self.asked)

    def _check_systems(self) -> None:
        """Before hours are spent on teacher and students."""
        check_further(self.recipe)
        check_outputs(self.recipe, examined_records(self.data.splits, self.recipe.evaluate))

    @cached_property
    def further(self) -> dict[str, Comparison]:
        """The comparisons of the further tasks, by task."""
        return {each.task: read_comparison(self.evaluation, each.task) for each in self.recipe.evaluate.also}

    @property
    def asked(self) -> Artifact | None:
        """The student before it learns, where the comparison wants its answers too."""
        return self.untrained if any(each.of == "student" for each in self.recipe.evaluate.prompted) else None

    def probe(self) -> list[Probed]:
        """What each system does with odd sources; also written to `probe.json`."""
        self._check_systems()
        systems, _ = systems_of(self.recipe, self.data, self.teacher, self.students, self.asked)
        with console.progress("probe", len(systems) * len(PROBES), "answers") as advance:
            found = probe_systems(systems, max_new_tokens=self.recipe.evaluate.max_new_tokens, done=advance)
        rows = [one.model_dump() for one in found]
        publish.write_text(self.root / PROBE_NAME, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        return found

    def search(self, wish: Wish) -> Artifact:
        """The best student of the teacher within the limits of `wish`."""
        return run_search(self.shop, self.recipe, self.lesson, self.instructor, self.labels, wish)

    def publish(self, next_command: str) -> tuple[Comparison, Path]:
        """Writes `summary.json` and `report.html` from the evaluation; gives the comparison and the report's place."""
        from instil.run.report import report

        comparison, place = read_comparison(self.evaluation), self.root / report.REPORT_NAME
        if not is_first():
            return comparison, place
        summary = json.dumps(self.summary(comparison), indent=2, ensure_ascii=False)
        publish.write_text(self.root / SUMMARY_NAME, summary + "\n")
        self._tell_card(comparison)
        report.write_report(
            self.root, title=self.recipe.name, comparison=comparison, further=self.further, curves=self._curves(),
            facts=self._facts(), next_command=next_command,
        )  # fmt: skip
        return comparison, place

    def summary(self, comparison: Comparison) -> dict[str, Any]:
        """What `summary.json` holds: the comparison in numbers, and the folders that it came from."""
        return summary_of(comparison, self.further) | {"recipe": self.recipe.name, "stages": self._stage_folders()}

    def _tell_card(self, comparison: Comparison) -> None:
        """The student's card says what the student was measured to be. It is no part of the model's fingerprint."""
        if comparison.student in self.students:
            card = self.students[comparison.student].folder / MODEL_NAME / CARD_NAME
            places = {name: task.source or task.train or "" for name, task in self.recipe.data.tasks.items()}
            further = {name: (found, places[name]) for name, found in self.further.items()}
            place = places[self.recipe.evaluate.task]
            publish.write_text(card, with_results(card.read_text(encoding="utf8"), comparison, place, further))

    def _artifacts(self) -> dict[str, Artifact]:
        found: dict[str, Artifact | None] = {"data": self.data.artifact, "teach": self.teacher.artifact}
        if self.recipe.assistants:
            found["last assistant"] = self.instructor.artifact
        if self.recipe.distil:
            further = {f"labels {number}": each for number, each in enumerate(self.labels.others, start=2)}
            found |= {"labels": self.labels.artifact, **further, "untrained student": self.untrained, **self.students}
        found["evaluation"] = self.evaluation
        return {name: artifact for name, artifact in found.items() if artifact}

    def _stage_folders(self) -> dict[str, str]:
        return {name: artifact.folder.name for name, artifact in self._artifacts().items()}

    def _curves(self) -> dict[str, list[dict[str, float]]]:
        folders = {name: artifact.folder for name, artifact in self.students.items()}
        if self.teacher.artifact:
            folders[TEACHER] = self.teacher.artifact.folder
        return {name: read_history(folder) for name, folder in folders.items()}

    def _facts(self) -> list[tuple[str, str]]:
        recipe, manifest = self.recipe, self.evaluation.manifest
        facts = [("Teacher", recipe.teacher.title)]
        facts.append(("Records", "\n".join(self.data.artifact.manifest.result["account"])))
        if recipe.distil:
            facts.append(("Budget of each student", str(recipe.distil.loop.budget)))
            facts.append(("Truncation", str(self.student.manifest.result["cut"])))
            facts.append(("Soft loss", f"weight {recipe.distil.alpha}, temperature {recipe.distil.temperature}"))
            store = self.labels.store
            facts.append(("Labels", _join(store.manifest.measured) if store else "targets alone"))
        facts += [(f"Time: {name}", units.seconds(a.manifest.wall_s)) for name, a in self._artifacts().items()]
        facts += [
            ("Seed", str(recipe.seed)),
            ("Machine", _join(manifest.hardware)),
            ("Versions", _join(manifest.versions)),
        ]
        return facts


def _join(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


STAGES: dict[str, Callable[[Pipeline], Any]] = {
    "data": lambda pipeline: pipeline.data.artifact,
    "teach": lambda pipeline: pipeline.teacher.artifact,
    "label": lambda pipeline: pipeline.labels.artifact,
    "distil": lambda pipeline: (pipeline.student, pipeline.without_teacher)[0],
    "compress": lambda pipeline: pipeline.compressed,
    "evaluate": lambda pipeline: pipeline.evaluation,
}
"""What each command of the command line makes, with everything it needs."""
