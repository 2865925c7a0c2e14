"""The account of reading and cleaning: what came in, what was dropped for which reason, what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Reason = Literal[
    "empty source",
    "empty target",
    "too short",
    "too long",
    "exact duplicate",
    "near duplicate",
    "leaked exact",
    "leaked n-gram",
    "over limit",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class SplitAccount:
    """Records of one split; `read` is the sum of `dropped` and `kept`.

    `leaks_kept`: training records that overlap a held-out split and stayed, because the recipe only warns.
    `one_sided`: what tells the records within the limit from those over it, where they differ.
    """

    read: int
    kept: int
    dropped: Mapping[Reason, int] = field(default_factory=dict)
    leaks_kept: int = 0
    one_sided: str = ""

    def line(self) -> str:
        """ "6 kept of 9 read; dropped: 2 too short, 1 near duplicate"."""
        reasons = ", ".join(f"{self.dropped[reason]:,} {reason}" for reason in REASONS if self.dropped.get(reason))
        kept = f"{self.kept:,} kept of {self.read:,} read"
        return f"{kept}; dropped: {reasons}" if reasons else kept


@dataclass(frozen=True, slots=True)
class Account:
    """One `SplitAccount` for each split, and remarks that a person should see."""

    splits: Mapping[str, SplitAccount]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The account as printed: a line for each split, then the notes."""
        width = max((len(name) for name in self.splits), default=0)
        return [f"{name:<{width}}  {split.line()}" for name, split in self.splits.items()] + [
            f"note: {note}" for note in self.notes
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every reason by name, zeros included."""
        splits = {
            name: {
                "read": split.read,
                "kept": split.kept,
                "dropped": {reason: split.dropped.get(reason, 0) for reason in REASONS},
                "leaks_kept": split.leaks_kept,
                "one_sided": split.one_sided,
            }
            for name, split in self.splits.items()
        }
        return {"splits": splits, "notes": list(self.notes)}

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Account:
        """What `as_dict` gave."""
        splits = {
            name: SplitAccount(
                each["read"], each["kept"], each["dropped"], each["leaks_kept"], each.get("one_sided", "")
            )
            for name, each in values["splits"].items()
        }
        return cls(splits, tuple(values["notes"]))
