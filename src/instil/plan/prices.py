"""What clouds rent, and for how much: a dated table that users may overlay with their own.

No price stands without its date. A file of the user's has the same columns; its rows replace those of the same cloud,
instance and region, and it is kept in the user's configuration folder.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from instil.core import publish
from instil.core.errors import ConfigError, DataError
from instil.plan.hardware import Accelerator, accelerators, named_like
from instil.plan.tables import FOLDER

COLUMNS = (
    "cloud", "instance", "accelerators", "accelerator", "vcpu", "ram_gib", "usd_per_h", "spot_usd_per_h", "region",
    "date", "source", "note",
)  # fmt: skip
CLOUDS = ("azure", "gcp")
NO_TPU = (
    "Azure rents no TPUs: Google builds them and rents them on Google Cloud alone. Ask for --cloud gcp, or for GPUs "
    "on Azure"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A machine for rent. A price that is None is not offered."""

    cloud: str
    name: str
    count: int
    accelerator: str
    vcpu: str
    ram_gib: str
    usd: float | None
    spot: float | None
    region: str
    date: str
    source: str
    note: str

    @property
    def device(self) -> Accelerator:
        """Its kind of accelerator."""
        return accelerators()[self.accelerator]

    def price(self, *, spot: bool) -> float | None:
        """USD an hour; None where it is not offered so."""
        return self.spot if spot else self.usd


def user_file() -> Path:
    """Where the user's own prices are kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "instil" / "prices.csv"


def built_in() -> list[Instance]:
    """The table that instil ships."""
    return _read(FOLDER / "instances.csv")


def instances() -> list[Instance]:
    """The built-in table under the user's own prices."""
    place = user_file()
    own = _read(place) if place.is_file() else []
    return list({_key(each): each for each in [*built_in(), *own]}.values())


def update(path: Path) -> list[Instance]:
    """Checks a user's file and keeps it for later plans, over what was kept before. Raises `DataError` with the line of
    a mistake."""
    fresh = _read(path)
    if not fresh:
        raise DataError(f"{path}: has no row; give at least one instance with its price and date")
    place = user_file()
    kept = {_key(each): each for each in (_read(place) if place.is_file() else [])}
    kept |= {_key(each): each for each in fresh}
    publish.write_text(place, _written(kept.values()))
    return fresh


def require_cloud(offered: Sequence[Instance], cloud: str | None) -> None:
    """Raises `ConfigError` for a cloud of which no instance is `offered`."""
    if cloud and cloud not in {each.cloud for each in offered}:
        raise ConfigError(f"--cloud {cloud}: no prices; known are {', '.join(sorted({e.cloud for e in offered}))}")


def select(
    offered: Sequence[Instance], *, cloud: str | None, gpu: str | None, spot: bool = False
) -> tuple[Instance, ...]:
    """Those on `cloud`, of a kind of accelerator and with a price; TPUs, which instil has not been run on, only where
    asked for. Raises `ConfigError` when there are none, and says so where a TPU is asked of Azure."""
    require_cloud(offered, cloud)
    asks_tpu = bool(gpu) and (str(gpu).lower().startswith(("tpu", "v")) and named_like(str(gpu)).is_tpu)
    if asks_tpu and cloud == "azure":
        raise ConfigError(NO_TPU)
    found = [each for each in offered if cloud in (None, each.cloud) and each.price(spot=spot) is not None]
    wanted = _wanted(gpu) if gpu else {name for name, device in accelerators().items() if not device.is_tpu}
    found = [each for each in found if each.accelerator in wanted]
    if not found:
        of = f" of {gpu}" if gpu else ""
        raise ConfigError(f"no instance{of} with a price on {cloud or 'any cloud'}; instil plan prices lists all")
    return tuple(found)


def _wanted(gpu: str) -> set[str]:
    """All accelerators that a loose name means: "a100" is every A100, "tpu" every TPU."""
    plain = "".join(letter for letter in gpu.lower() if letter.isalnum())
    names = {name: "".join(x for x in name.lower() if x.isalnum()) for name in accelerators()}
    found = {name for name, known in names.items() if known.startswith((plain, "tpu" + plain))}
    return found or {named_like(gpu).name}


def as_row(each: Instance) -> dict[str, object]:
    """An instance under the names of `COLUMNS`."""
    values = (
        each.cloud, each.name, each.count, each.accelerator, each.vcpu, each.ram_gib, each.usd, each.spot, each.region,
        each.date, each.source, each.note,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _key(each: Instance) -> tuple[str, str, str]:
    return each.cloud, each.name, each.region


def _read(path: Path) -> list[Instance]:
    try:
        with path.open(encoding="utf8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); name a CSV file of prices") from error
    missing = [name for name in (*COLUMNS[:4], "usd_per_h", "date") if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: has no column {', '.join(missing)}; the columns are {', '.join(COLUMNS)}")
    return [_instance(row, f"{path}:{line}") for line, row in enumerate(rows, start=2)]


def _instance(row: dict[str, str], where: str) -> Instance:
    accelerator, date = row["accelerator"], (row["date"] or "").strip()
    if accelerator not in accelerators():
        raise DataError(f"{where}: accelerator is {accelerator!r}; known are {', '.join(accelerators())}")
    if not date:
        raise DataError(f"{where}: a price needs its date; write it as 2026-10-06")
    try:
        count = int(row["accelerators"])
        usd, spot = _money(row["usd_per_h"]), _money(row.get("spot_usd_per_h") or "")
    except ValueError as error:
        raise DataError(f"{where}: {error}; write counts as 8 and prices as 98.32") from error
    if count < 1 or any(price is not None and price <= 0 for price in (usd, spot)):
        raise DataError(f"{where}: accelerators and prices must be above 0; leave a price that is not offered empty")
    return Instance(
        cloud=row["cloud"].lower(), name=row["instance"], count=count, accelerator=accelerator,
        vcpu=row.get("vcpu") or "", ram_gib=row.get("ram_gib") or "", usd=usd, spot=spot,
        region=row.get("region") or "", date=date, source=row.get("source") or str(where.rpartition(":")[0]),
        note=row.get("note") or "",
    )  # fmt: skip


def _money(text: str) -> float | None:
    return float(text) if text.strip() else None


def _written(offered: Iterable[Instance]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if value is None else value for value in as_row(each).values()] for each in offered)
    return text.getvalue()
