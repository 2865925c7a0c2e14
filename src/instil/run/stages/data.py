"""Stage `data`: read, clean and split the recipe's records; keep them with the account of what was dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instil.core import console, publish
from instil.core.errors import StorageError
from instil.core.fingerprint import hash_file
from instil.data.account import Account
from instil.data.load import load_splits
from instil.data.records import SPLIT_NAMES, Record, Splits, data_fingerprint, record_of_mapping, write_jsonl
from instil.data.sources import plan
from instil.run.recipe import Recipe
from instil.run.stage import Artifact, Workshop

ACCOUNT_NAME = "account.json"


@dataclass(frozen=True, slots=True)
class Data:
    """The records of each split. `fingerprint` is of their content, not of the file that they came from."""

    artifact: Artifact
    splits: Splits

    @property
    def fingerprint(self) -> str:
        """Hash of all records."""
        return str(self.artifact.manifest.result["fingerprint"])

    @property
    def account(self) -> Account:
        """What cleaning did."""
        return Account.of_dict(json.loads((self.artifact.folder / ACCOUNT_NAME).read_text(encoding="utf8")))


def run_data(shop: Workshop, recipe: Recipe, base: Path) -> Data:
    """The stage's artifact, made or found, and its records. Paths in the recipe are relative to `base`."""

    def work(folder: Path) -> Mapping[str, Any]:
        with console.progress("data", None, "records") as advance:
            splits, account = load_splits(recipe.data, base=base, advance=advance)
        for line in account.lines():
            console.say(f"  {line}")
        for name in SPLIT_NAMES:
            write_jsonl(folder / f"{name}.jsonl", splits[name])
        whole = {**account.as_dict(), "lines": account.lines()}
        publish.write_text(folder / ACCOUNT_NAME, json.dumps(whole, indent=2) + "\n")
        return {
            "fingerprint": data_fingerprint(splits),
            "account": account.lines(),
            "records": {name: len(splits[name]) for name in SPLIT_NAMES},
        }

    artifact = shop.stage("data", work, inputs=content(recipe, base), config=recipe.data.model_dump(mode="json"))
    data = Data(artifact, {name: read_records(artifact.folder / f"{name}.jsonl") for name in SPLIT_NAMES})
    if data_fingerprint(data.splits) != data.fingerprint:
        raise damaged(artifact.folder, "its records are not those that were written")
    return data


def content(recipe: Recipe, base: Path) -> dict[str, str]:
    """Hashes of the local files that the section names; a hub data set is named by its revision instead."""
    origins = (origin for task in recipe.data.tasks.values() for origin in plan(task, base).origins)
    files = [origin.file for origin in origins if origin.file is not None]
    return {path.as_posix(): hash_file(path) for path in files}


def read_records(path: Path) -> list[Record]:
    """The records that a stage wrote at `path`. Raises `StorageError` for a file that is damaged or gone."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf8").split("\n") if line]
        return [record_of_mapping(row) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise damaged(path.parent, f"{path.name} is not readable") from error


def damaged(folder: Path, what: str) -> StorageError:
    """What to raise for a stage's folder whose content is not as it was written."""
    return StorageError(f"{folder}: damaged, {what}; delete the folder and run the same command again")
