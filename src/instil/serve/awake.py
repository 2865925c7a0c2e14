"""Engines that share a process without slowing each other down.

Where the threads of a process outnumber its processors, GNU's OpenMP lets a thread that waits look 100 times and then
sleep (libgomp's manual, GOMP_SPINCOUNT). Two engines of as many threads as processors are such a process although they
never work at the same time, and a small model's token is hundreds of waits: it took 1.5 times as long
(`benchmarks.serving`). An active wait policy means 1,000 looks, which is enough, and where threads are few it would
mean minutes, so that number is told too.
"""

from __future__ import annotations

import os

_SETTINGS = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "300000"}
"""The second is what the library takes where nothing is set, about three milliseconds."""


def stay_awake() -> None:
    """Before torch or an engine is loaded, which read the settings once. What the user has set stays as it is."""
    if not _SETTINGS.keys() & os.environ.keys():
        os.environ.update(_SETTINGS)
