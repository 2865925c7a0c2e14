"""What a command names as the next one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def following(command: str, recipe: Path, overrides: Sequence[str] | None) -> str:
    """`instil COMMAND` on the same recipe with the same changes, as a shell reads it."""
    changes = (part for change in overrides or () for part in ("--set", change))
    return shlex.join(["instil", command, str(recipe), *changes])
