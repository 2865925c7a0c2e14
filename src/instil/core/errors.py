"""What a user can do wrong, each with one line: what, which value, what to do next.

`InstilError` is the root; each child is also the standard exception that a caller would expect to catch.
The command line prints the message without a traceback and ends with `exit_code`
(1: problems found in data, models or the machine; 2: misuse of a recipe or of the command line).
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import ClassVar


class InstilError(Exception):
    """Root of all errors that are the user's to mend. The message says what, which value, what to do."""

    exit_code = 1
    code: ClassVar[str] = "error"
    """Its kind among the problems that `instil check` lists."""


class ConfigError(InstilError, ValueError):
    """A recipe or an option is wrong."""

    exit_code = 2
    code = "recipe-wrong"


class DataError(InstilError, ValueError):
    """A data file is missing, empty, torn or of another form than the recipe says."""

    code = "data-unusable"


class ModelError(InstilError, ValueError):
    """A model cannot be loaded, or cannot do what the recipe asks of it."""

    code = "model-unusable"


class EncoderOnlyError(ModelError):
    """A model that reads text and cannot write any."""

    code = "encoder-only"


class LabelError(InstilError, ValueError):
    """A label store is damaged, or belongs to another teacher, tokenizer, prompt or data set."""

    code = "labels-unusable"


class StorageError(InstilError, OSError):
    """The disk is full, read-only or missing."""

    code = "storage"


_OUT_OF_MEMORY = "out of memory; lower batch_tokens in the recipe and run the same command again"
_KEPT = "run the same command again, finished work is kept"
_REMEDIES = {
    errno.ENOSPC: f"the disk is full; free some space and {_KEPT}",
    errno.EDQUOT: f"your disk quota is used up; free some space and {_KEPT}",
    errno.EFBIG: f"the file would be larger than this system allows; raise the limit (ulimit -f) and {_KEPT}",
    errno.EROFS: "the file system is read-only; choose another folder with --set runs_dir=FOLDER",
    errno.EACCES: "permission denied; choose another folder or change its permissions",
    errno.EPERM: "the system does not permit it; choose another folder with --set runs_dir=FOLDER",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another folder with --set runs_dir=FOLDER",
    errno.EIO: "the disk reports an error; check it, or choose another folder with --set runs_dir=FOLDER",
}


def storage_error(error: Exception, path: Path, *, doing: str = "writing") -> StorageError:
    """`error` from the operating system, in one line that names `path` and the remedy.

    Libraries that write by themselves raise their own kinds; where their message has the system's number in it, as
    "(os error 28)", that counts.
    """
    if isinstance(error, StorageError):
        return error
    reason = _REMEDIES.get(_number(error), "") or getattr(error, "strerror", None) or _first_line(error)
    return StorageError(f"{path}: failed while {doing}: {reason}")


def line_of(error: Exception) -> str | None:
    """What a user is told of `error`, in one line; None where it is a fault of ours."""
    if isinstance(error, InstilError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return str(storage_error(error, Path(error.filename or ".")))
    # torch raises errors of its own, of a GPU and of the machine.
    memory = isinstance(error, RuntimeError) and re.search(r"out of memory|can't allocate memory", str(error))
    return _OUT_OF_MEMORY if memory or isinstance(error, MemoryError) else None


def _number(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
