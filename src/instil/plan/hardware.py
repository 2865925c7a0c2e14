"""Accelerators: what one device can do, from `tables/accelerators.csv`. Rates are a second, sizes decimal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from instil.core.errors import ConfigError
from instil.plan.tables import choose, rows_of

Kind = Literal["gpu", "tpu"]

_OF_PEAK = {"gpu": 0.83, "tpu": 0.90}
"""Best matrix product as a share of the data sheet's peak where nobody has measured it: the middle of those that were
(NVIDIA 0.73 to 0.87; TPU v6e 0.90)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device. `link` is one way inside a node of `node` devices, `network` a device's share between nodes."""

    name: str
    kind: Kind
    peak: float
    """Dense bf16 or fp16 FLOP/s on the data sheet; `best` is the fastest matrix product that was measured."""
    best: float
    fp8: float | None
    memory: float
    bandwidth: float
    link: float
    network: float
    node: int
    watts: float
    source: str

    @property
    def is_tpu(self) -> bool:
        """TPUs run what XLA compiled, on a torus of links."""
        return self.kind == "tpu"


@cache
def accelerators() -> dict[str, Accelerator]:
    """All that are known, by name."""
    return {row["name"]: _accelerator(row) for row in rows_of("accelerators.csv")}


def accelerator(name: str) -> Accelerator:
    """One by its name, such as "H100-SXM-80GB". Raises `ConfigError` with near names."""
    return choose(name, accelerators(), "accelerator")


def _accelerator(row: dict[str, str]) -> Accelerator:
    kind: Kind = "tpu" if row["kind"] == "tpu" else "gpu"
    peak = float(row["peak_tflops"]) * 1e12
    return Accelerator(
        name=row["name"], kind=kind, peak=peak,
        best=float(row["best_tflops"]) * 1e12 if row["best_tflops"] else peak * _OF_PEAK[kind],
        fp8=float(row["fp8_tflops"]) * 1e12 if row["fp8_tflops"] else None,
        memory=float(row["memory_gb"]) * 1e9, bandwidth=float(row["memory_gb_per_s"]) * 1e9,
        link=float(row["link_gb_per_s"]) * 1e9, network=float(row["network_gb_per_s"]) * 1e9, node=int(row["node"]),
        watts=float(row["watts"]), source=f"{row['source']}, {row['date']}",
    )  # fmt: skip


def named_like(name: str) -> Accelerator:
    """The accelerator that a loose name means, the first of several: "h100-sxm", "A100 PCIe", "v5e"."""
    known = accelerators()
    wanted = _plain(name)
    found = [each for key, each in known.items() if _plain(key) == wanted]
    found = found or [each for key, each in known.items() if _plain(key).startswith(wanted)]
    found = found or [each for key, each in known.items() if wanted in _plain(key)]
    if not found:
        raise ConfigError(f"unknown accelerator {name!r}; known are {', '.join(known)}")
    return found[0]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
