"""What licences and terms of service say about training on a model's outputs: the rows of `licences.csv`, each with its
source and the date of the text that was read. No legal advice; a licence that is not listed is unknown."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("licences.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """`outputs`: whether a student may learn from what the model writes, in a few words; `says`: on which terms."""

    name: str
    outputs: str = "unknown"
    says: str = ""
    source: str = ""
    date: str = ""


def licence_of(name: str) -> Licence:
    """What is known of the licence `name`, an identifier as model cards have it, or "api:HOST" of a service."""
    with TABLE.open(encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            if re.fullmatch(row.pop("pattern"), name.lower()):
                return Licence(**row)
    return Licence(name=name)
