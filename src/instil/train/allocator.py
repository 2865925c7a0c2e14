"""Keeps glibc from handing memory back to the system between steps.

A training step on a CPU frees and asks for the same hundreds of megabytes again. By default glibc returns blocks over
32 MB to the system at once, and each page must then be zeroed anew: about a sixth of a step (docs/lab-notes.md).
"""

from __future__ import annotations

import ctypes
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tell glibc, once for the process, to keep freed memory for reuse; says whether it did. Elsewhere: nothing."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
