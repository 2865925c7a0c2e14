"""Processes that a launcher (torchrun, accelerate, a cluster) started together for one command.

The first one speaks and writes; what only one can do, it does while the others wait.
"""

from __future__ import annotations

import os


def rank() -> int:
    """This process's number among all, from 0; 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def together() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process speaks and writes."""
    return rank() == 0
