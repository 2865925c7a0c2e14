"""What systems did with odd sources, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from instil.core import console
from instil.evaluate.probe import Probed

_SHOWN = 120


def show_probe(found: Sequence[Probed], as_json: bool, next_command: str) -> None:
    """Prints `found`; exit 1 where a system crashed."""
    crashed = any(one.outcome == "crashed" for one in found)
    if as_json:
        console.emit_json({"probes": [one.model_dump() for one in found], "crashed": crashed, "next": next_command})
    else:
        _print(found)
        print(f"Next: {next_command}")
    if crashed:
        raise typer.Exit(1)


def _print(found: Sequence[Probed]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    systems = list(dict.fromkeys(one.system for one in found))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for head in ("source", *systems):
        table.add_column(head, overflow="fold")
    outcomes = {(one.probe, one.system): one.outcome for one in found}
    for probe in dict.fromkeys(one.probe for one in found):
        table.add_row(probe, *(Text(outcomes[probe, system]) for system in systems))
    Console().print(table)
    for one in found:
        if one.reason:
            reason = one.reason if len(one.reason) <= _SHOWN else one.reason[:_SHOWN] + " …"
            print(f"{one.system}, {one.probe}: {one.outcome}: {reason}")
