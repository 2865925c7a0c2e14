"""The command line. Nothing heavy is imported before a command needs it, so `instil --help` answers at once.

Results go to stdout, all else to stderr. Exit codes: 0 done, 1 problems found, 2 misuse, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import instil
from instil.core.processes import is_first
from instil.run.commands.check import check
from instil.run.commands.compare import compare
from instil.run.commands.export import export
from instil.run.commands.judge import judge_app
from instil.run.commands.labels import labels_app
from instil.run.commands.methods import methods, teachers
from instil.run.commands.options import AsJson, AsMarkdown, Overrides, RecipePath
from instil.run.commands.plan import plan_app
from instil.run.commands.search import search
from instil.run.commands.serve import serve, serve_key
from instil.run.commands.ui import ui
from instil.run.quiet import quiet_libraries

_ORDER = (
    "init", "plan", "check", "teachers", "methods", "data", "teach", "label", "labels", "search", "distil", "compress",
    "evaluate", "run", "compare", "judge", "export", "serve", "serve-key", "ui",
)  # fmt: skip


class _AsTheWayGoes(TyperGroup):
    """Lists the commands in the order in which a user comes to them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in that order."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    name="instil",
    cls=_AsTheWayGoes,
    help="Turn a large text-to-text model into a small one, and measure what was gained and lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(judge_app, name="judge")
app.add_typer(labels_app, name="labels")
app.add_typer(plan_app, name="plan")
app.command()(methods)
app.command()(teachers)
app.command()(check)
app.command()(compare)
app.command()(export)
app.command()(serve)
app.command("serve-key")(serve_key)
app.command()(ui)
app.command()(search)

# The root of typer's usage errors, which it does not export by itself.
_MISUSE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


_INTERRUPTED = 130
_GO_ON = "interrupted; the same command goes on from here"
_OUT_OF_MEMORY = "out of memory; lower batch_tokens in the recipe and run the same command again"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"instil {instil.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def init(
    data: Annotated[Path | None, typer.Argument(help="Your file of pairs: JSONL, CSV or Parquet.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the recipe.")] = Path("recipe.yaml"),
    source: Annotated[str | None, typer.Option(help="The column that the model reads.")] = None,
    target: Annotated[str | None, typer.Option(help="The column that the model is to write.")] = None,
    task: Annotated[str | None, typer.Option(help="summarise, translate, answer, data-to-text or other.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The large model: a folder, a hub id or wheel:NAME.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training in all.")] = None,
    name: Annotated[str | None, typer.Option(help="The recipe's name.")] = None,
    force: Annotated[bool, typer.Option(help="Write over an existing recipe.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; guess what is not given.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented recipe for your own file, after a few questions."""
    from instil.core import console
    from instil.run.init.init import init_command

    made = init_command(
        data, out=out, source=source, target=target, task=task, teacher=teacher, minutes=minutes, name=name,
        force=force, yes=yes,
    )  # fmt: skip
    for remark in made.remarks:
        console.say(remark)
    if as_json:
        console.emit_json({"recipe": str(made.path), "next": made.next_command})
    else:
        print(f"Wrote {made.path}\nNext: {made.next_command}")


@app.command()
def data(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read, clean and split the data, with an account of what was dropped."""
    _stage("data", recipe, overrides, as_json, next_stage="teach")


@app.command()
def teach(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Fine-tune the teacher, where the recipe says so."""
    _stage("teach", recipe, overrides, as_json, next_stage="label")


@app.command()
def label(
    recipe: RecipePath,
    overrides: Overrides = None,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts; instil labels merge joins them.")
    ] = None,
    measure: Annotated[
        int | None,
        typer.Option(metavar="ROWS", help="Write none; measure bytes and nearness of each detail on so many rows."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write down what the teacher knows about the train split."""
    if measure is not None:
        _measure_labels(_pipeline(recipe, overrides), measure, as_json, f"instil label {recipe}")
        return
    if part is None:
        _stage("label", recipe, overrides, as_json, next_stage="distil")
        return
    number, of = _part(part)
    artifact = _pipeline(recipe, overrides).label_part(number, of)
    _say_stage("label", artifact, as_json, f"instil labels merge STORE {artifact.folder.parent}/label-part-*")


def _measure_labels(pipeline: Any, rows: int, as_json: bool, following: str) -> None:
    from instil.core import console
    from instil.run.measure_labels import measure_labels

    found = measure_labels(pipeline, rows)
    if as_json:
        console.emit_json({"rows": found, "next": following})
        return
    print(f"{'setting':<18}{'bytes a row':>12}{'512 rows':>12}{'all rows':>12}   degrees from the dense gradient")
    for line in found:
        size, whole = ("" if line[key] is None else f"{line[key]:.1f}" for key in ("bytes_per_token", "angle_all"))
        print(f"{line['setting']:<18}{size:>12}{line['angle_512']:>12.1f}{whole:>12}")
    print(f"Next: {following}  (labels.detail chooses the setting)")


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter(f"{text!r} is no part; give two numbers like 3/16", param_hint="--part")
    return int(match[1]), int(match[2])


@app.command()
def distil(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Build the student and train it from the labels; and without them, for the comparison."""
    _stage("distil", recipe, overrides, as_json, next_stage="evaluate")


@app.command()
def compress(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Give the distilled student fewer bits or weights, where the recipe says so, and let it recover."""
    _stage("compress", recipe, overrides, as_json, next_stage="evaluate")


@app.command()
def evaluate(
    recipe: RecipePath,
    overrides: Overrides = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A further system: its outputs, as JSONL or a line each. Repeatable."),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A further system: an OpenAI-compatible server. Repeatable."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Compare nothing; tell what each system does with odd sources.")
    ] = False,
    md: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare teacher, students, trivial baselines and what else is named on held-out data."""
    further = [*_systems("--outputs", outputs, "outputs"), *_systems("--endpoint", endpoint, "endpoint.url")]
    pipeline = _pipeline(recipe, [*(overrides or ()), *further])
    if probe:
        from instil.run.report.probe_table import show_probe

        show_probe(pipeline.probe(), as_json, f"instil evaluate {recipe}")
    else:
        _show(pipeline, md, as_json, f"instil run {recipe}")


def _systems(option: str, given: list[str] | None, key: str) -> list[str]:
    """What was given for `option` as changes of the recipe."""
    for text in given or ():
        if not re.fullmatch(r"[\w-]+=.+", text):
            raise typer.BadParameter(f"{text!r} has no name; write NAME={text}", param_hint=option)
    return [
        f"evaluate.systems.{name}.{key}={value}" for name, _, value in (text.partition("=") for text in given or ())
    ]


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Begin without instil check.")] = False,
    md: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Check, then run all stages, reusing what is finished, and write summary.json and report.html."""
    pipeline = _pipeline(recipe, overrides)
    if not no_check and is_first():
        from instil.run.check.check import check_first

        check_first(pipeline)
    _show(pipeline, md, as_json, "instil init YOUR_FILE.jsonl")


def _pipeline(recipe: Path, overrides: list[str] | None) -> Any:
    from instil.run.recipe_file import read_recipe

    loaded = read_recipe(recipe, tuple(overrides or ()))
    from instil.run.pipeline import Pipeline

    return Pipeline(loaded, Path())


def _stage(name: str, recipe: Path, overrides: list[str] | None, as_json: bool, *, next_stage: str) -> None:
    pipeline = _pipeline(recipe, overrides)
    from instil.run.pipeline import STAGES

    _say_stage(name, STAGES[name](pipeline), as_json, f"instil {next_stage} {recipe}")


def _say_stage(name: str, artifact: Any, as_json: bool, following: str) -> None:
    from instil.core import console

    if as_json:
        found = artifact.manifest.model_dump(mode="json") | {"folder": str(artifact.folder)} if artifact else {}
        console.emit_json(found | {"next": following})
    elif artifact is None:
        print(f"{name}: the recipe asks for none, so there is nothing to do\nNext: {following}")
    else:
        print(f"{name}: {artifact.folder}\nNext: {following}")


def _show(pipeline: Any, md: bool, as_json: bool, next_command: str) -> None:
    from instil.core import console
    from instil.run.report import report
    from instil.run.report.metric_table import metric_table

    comparison, place = pipeline.publish(next_command)
    if as_json:
        console.emit_json(pipeline.summary() | {"report": str(place), "next": next_command})
        return
    if md:
        from instil.run.report.markdown import markdown

        print(markdown(comparison), end="")
        return
    from rich.console import Console

    Console().print(report.terminal_table(comparison))
    if (table := metric_table(comparison)) is not None:
        Console().print(table)
    for remark in comparison.remarks:
        console.say(f"note: {remark}")
    print(f"Report: {place}\nNext, for your own data: {next_command}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `instil` command: runs it, and turns the user's errors into one clear line each."""
    quiet_libraries()
    if not is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The first prints the result for all.
    sys.exit(_guarded(lambda: app(arguments, prog_name="instil", standalone_mode=False)))


def _guarded(command: Callable[[], Any]) -> int:
    try:
        result = command()
    except KeyboardInterrupt:
        return _fail(_GO_ON, _INTERRUPTED)
    except MemoryError:
        return _fail(_OUT_OF_MEMORY, 1)
    except BrokenPipeError:
        # Nobody reads it any more, so Python must not flush it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _explain(error)
    if result == _INTERRUPTED:  # Typer turns Ctrl-C into this without a word.
        return _fail(_GO_ON, _INTERRUPTED)
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> int:
    from instil.core.errors import InstilError, storage_error

    if isinstance(error, typer.Abort):
        return _fail(_GO_ON, _INTERRUPTED)
    if isinstance(error, _MISUSE):
        error.show()
        return 2
    if isinstance(error, InstilError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, OSError) and error.errno is not None:
        return _fail(str(storage_error(error, Path(error.filename or "."))), 1)
    if isinstance(error, RuntimeError) and re.search(r"out of memory|can't allocate memory", str(error)):
        return _fail(_OUT_OF_MEMORY, 1)  # torch's own errors, of a GPU and of the machine.
    raise error


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
