"""Memory that a piece of work adds at its peak: resident pages of this process, or what torch allocates on CUDA.

On Linux the kernel's high-water mark is reset first (proc_pid_clear_refs(5), value 5); elsewhere only a rise over the
whole process's earlier peak is seen, so the number is a lower bound there. torch is never imported for this.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def added_memory(work: Callable[[], object]) -> int | None:
    """Bytes by which `work` raises memory at its peak over what was in use before; None where that cannot be told.

    Run `work` once before, so that weights are paged in and libraries have started. On a CUDA device that `work` uses,
    device memory counts, otherwise the host's.
    """
    gc.collect()
    _give_back_free_pages()
    cuda = _cuda()
    device_before = _reset_cuda(cuda) if cuda else 0
    host_before = _reset_host()
    work()
    on_device = int(cuda.max_memory_allocated()) - device_before if cuda else 0
    if on_device > 0:
        return on_device
    peak = _host_peak()
    return None if peak is None or host_before is None else max(0, peak - host_before)


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _reset_cuda(cuda: Any) -> int:
    cuda.synchronize()
    cuda.reset_peak_memory_stats()
    return int(cuda.memory_allocated())


def _give_back_free_pages() -> None:
    """Without this the heap that an earlier system left free would hide what the next one needs."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)


def _reset_host() -> int | None:
    """Resident bytes now, the high-water mark reset to them where the kernel allows."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return _host_peak()
    return _from_status("VmRSS")


def _host_peak() -> int | None:
    try:
        return _from_status("VmHWM")
    except OSError:
        return _peak_of_usage()


def _from_status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024


def _peak_of_usage() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
