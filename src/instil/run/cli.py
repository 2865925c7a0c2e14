"""The command line. Nothing heavy is imported before a command needs it, so `instil --help` answers at once.

Results go to stdout, all else to stderr. Exit codes: 0 done, 1 problems found, 2 misuse, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import instil
from instil.core.processes import is_first
from instil.run.commands.check import check
from instil.run.commands.compare import compare
from instil.run.commands.export import export
from instil.run.commands.init import init
from instil.run.commands.judge import judge_app
from instil.run.commands.labels import labels_app
from instil.run.commands.methods import methods, teachers
from instil.run.commands.plan import plan_app
from instil.run.commands.run import evaluate, run
from instil.run.commands.search import search
from instil.run.commands.serve import serve, serve_key
from instil.run.commands.stages import compress, data, distil, label, teach
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
for _command in (
    init, check, teachers, methods, data, teach, label, search, distil, compress, evaluate, run, compare, export, serve,
    ui,
):  # fmt: skip
    app.command()(_command)
app.command("serve-key")(serve_key)

# The root of typer's usage errors, which it does not export by itself.
_MISUSE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

_INTERRUPTED = 130
_GO_ON = "interrupted; the same command goes on from here"


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
    from instil.core.errors import line_of

    if isinstance(error, typer.Abort):
        return _fail(_GO_ON, _INTERRUPTED)
    if isinstance(error, _MISUSE):
        error.show()
        return 2
    if (said := line_of(error)) is not None:
        return _fail(said, getattr(error, "exit_code", 1))
    raise error


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
