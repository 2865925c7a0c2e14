"""What a command names as the next one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instil.data.config import DataConfig


def following(command: str, recipe: Path, overrides: Sequence[str] | None) -> str:
    """`instil COMMAND` on the same recipe with the same changes, as a shell reads it."""
    changes = (part for change in overrides or () for part in ("--set", change))
    return shlex.join(["instil", command, str(recipe), *changes])


OWN_DATA = "instil init YOUR_FILE.jsonl"
"""For who has tried it on the built-in corpus."""


def use_of(student: Path, data: DataConfig) -> str:
    """What to do with a finished student: try another one on one's own data, or bring it into use if it is of those."""
    from instil.data.sources import BUILT_IN

    built_in = data.source in BUILT_IN or data.train in BUILT_IN
    return OWN_DATA if built_in else shlex.join(["instil", "export", str(student), "--to", "ctranslate2"])


def told(command: str) -> str:
    """The last line of a command."""
    return f"Next, for your own data: {command}" if command == OWN_DATA else f"Next: {command}"
