"""Data sets of the Hugging Face hub, through `datasets`. Code of a data set is never run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from instil.data.problems import BadData, closest
from instil.data.tables import Row, Table, table

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")
PREFIX = "hub:"
_NAME = re.compile(r"hub:[\w.-]+(/[\w.-]+)?$")
_ROWS = 1000


def is_hub(place: str) -> bool:
    """True for places such as "hub:owner/name"."""
    return place.startswith(PREFIX)


def split_names(place: str, *, config: str | None, revision: str | None) -> list[str]:
    """The splits of a hub data set. Raises `BadData` when it cannot be reached or is not there."""
    name = _name(place)

    def ask() -> list[str]:
        from datasets import get_dataset_split_names

        return list(get_dataset_split_names(name, config, revision=revision))

    return _asked(place, config, ask)


def table_of(place: str, *, config: str | None, split: str, revision: str | None, wanted: Collection[str]) -> Table:
    """One split of a hub data set, downloaded once into the cache of `datasets`."""
    name = _name(place)

    def ask() -> Dataset:
        from datasets import load_dataset

        return cast("Dataset", load_dataset(name, config, split=split, revision=revision))

    found = _asked(place, split, ask)
    columns = tuple(found.column_names)
    used = found.select_columns([column for column in columns if column in wanted])
    return table(f"{place}[{split}]", _rows(used), columns=columns, numbered_by="row")


def _rows(dataset: Any) -> Iterator[Row]:
    number = 0
    for batch in dataset.iter(batch_size=_ROWS):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield number, dict(zip(names, values, strict=True))


def _name(place: str) -> str:
    if not _NAME.match(place):
        raise BadData(place, "is no hub data set", "write hub:owner/name, and set data.config and data.split apart")
    return place.removeprefix(PREFIX)


def _asked(place: str, word: str | None, ask: Callable[[], T]) -> T:
    """`ask` the hub; whatever goes wrong there (a dozen libraries may raise) becomes one line.

    `word` is what may be misspelt: a configuration or a split.
    """
    try:
        return ask()
    except ImportError:
        raise BadData(place, "needs the library datasets", "install it with: pip install datasets") from None
    except Exception as error:
        raise _refused(place, word, error) from error


def _refused(place: str, word: str | None, error: Exception) -> BadData:
    text = " ".join(str(error).split())
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    if "Connection" in text + kinds or "Offline" in text + kinds or "Timeout" in kinds or "reach" in text:
        remedy = "check the network (and HF_HUB_OFFLINE), or download the files and give their folder"
        return BadData(place, f"the hub cannot be reached ({type(error).__name__})", remedy)
    if "DatasetNotFound" in kinds:
        return BadData(place, "is not on the hub, or is closed to you", "check the name, or log in with: hf auth login")
    options = [option for option in re.findall(r"['\"]([\w.-]+)['\"]", text) if option != word]
    near = closest(word or "", options)
    remedy = f"did you mean {near!r}?" if near else "check data.config, data.split and data.revision"
    return BadData(place, f"cannot be loaded ({type(error).__name__}: {text[:160]})", remedy)
