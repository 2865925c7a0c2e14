"""`instil export`: a student in the format of a production engine, published only if it proves to be the student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instil.run.commands.options import AsJson

if TYPE_CHECKING:
    from instil.data.records import Record
    from instil.export.parity import Probe
    from instil.export.publish import Exported
    from instil.export.sheet import Format

FORMATS = ("hf", "ctranslate2", "gguf", "onnx", "openvino")


def export(
    student: Annotated[Path, typer.Argument(help="A stage's folder, such as runs/NAME/distil-..., or a model's.")],
    to: Annotated[str, typer.Option(help="hf, ctranslate2, gguf, onnx or openvino.")],
    precision: Annotated[
        str | None, typer.Option(help="Such as int8, q8_0 or q4_k_m; each format has a default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new folder; beside the student's unless given.")] = None,
    probes: Annotated[
        Path | None,
        typer.Option(help="JSONL with source and target to compare on; the run's test records unless given."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a student, reload it in its engine, compare it with the student, and only then publish it."""
    target = _format(to)
    from instil.core import console
    from instil.export.formats import precision_of
    from instil.export.place import place_of
    from instil.export.publish import export_student
    from instil.export.student import open_student

    chosen = precision_of(target, precision)
    place = out or student.resolve().parent / f"{student.resolve().name}-{target}-{chosen}"
    place_of(place, [student], force=force)  # Before the student is loaded, which may take minutes.
    loaded = open_student(student)
    from instil.evaluate.rouge import Rouge, tokenizer_for

    compared = _probes(student, probes)
    rouge = Rouge(tokenizer=tokenizer_for(text for probe in compared for text in probe.targets))
    made = export_student(
        loaded, target, place, precision=chosen, probes=compared, metric="rougeL", force=force,
        scorer=lambda output, targets: rouge.score(output, targets).rougeL,
    )  # fmt: skip
    following = f"instil serve {place}"
    if as_json:
        sizes = {"bytes": made.bytes, "student_bytes": made.student_bytes}
        console.emit_json({"folder": str(place), **sizes, "parity": made.parity.json(), "next": following})
    else:
        print(_told(made, target, chosen))
        print(f"Next: {following}")


def _format(word: str) -> Format:
    found: dict[str, Format] = {name: name for name in FORMATS}  # type: ignore[misc]
    if word not in found:
        raise typer.BadParameter(f"{word!r} is no format; choose one of {', '.join(FORMATS)}", param_hint="--to")
    return found[word]


def _probes(student: Path, given: Path | None) -> list[Probe]:
    """What to compare on: the file that is given, the test records of the student's run, or the built-in corpus."""
    import json

    from instil.core.errors import DataError
    from instil.data import synopsis
    from instil.export.parity import Probe

    if given is None:
        return [Probe(record.source, record.targets) for record in _known(student) or synopsis.load("test")]
    try:
        rows = [json.loads(line) for line in given.read_text(encoding="utf8").split("\n") if line]
        return [
            Probe(row["source"], tuple(row.get("targets") or ([row["target"]] if "target" in row else ())))
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{given}: cannot be read as lines of {{"source": ..., "target": ...}}; mend --probes'
        ) from error


def _known(student: Path) -> list[Record]:
    """The test records of the run that the stage `student` is of; none where it is no stage."""
    from instil.core.manifest import read_manifest
    from instil.run.servable import asked_records

    manifest = read_manifest(student)
    if manifest is None:
        return []
    folders = sorted(student.resolve().parent.glob("data-*"))
    found = {folder: read_manifest(folder) for folder in folders}
    same = [f for f, own in found.items() if own and own.result.get("fingerprint") == manifest.inputs.get("data")]
    return asked_records(same[-1]) if same else []


def _told(made: Exported, target: str, precision: str) -> str:
    from instil.core import units

    parity = made.parity
    off = f"log probabilities {parity.log_prob:.2g} nats off, regret {parity.regret:.2g} nats a token"
    lines = [
        f"{target} {precision}: {made.folder}",
        f"size      {units.size(made.bytes)}, 1/{made.student_bytes / made.bytes:.1f} of the student in memory",
        f"parity    {off} (n={parity.traced_tokens} tokens)",
        f"texts     {parity.equal_texts} of {parity.probes} the same",
    ]
    if parity.score_loss is not None:
        lines.append(
            f"{parity.metric:<9} {parity.export_score:.1f}, the student's {parity.student_score:.1f}"
            f" (loss {parity.score_loss:.2f}, standard error {parity.score_loss_error:.2f}, n={parity.probes})"
        )
    return "\n".join(lines)
