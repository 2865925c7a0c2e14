"""Hub data sets go through `datasets`; a folder called owner/name stands in, which it loads without the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from instil.core.errors import DataError
from instil.data.config import DataConfig
from instil.data.load import load_splits


@pytest.fixture
def owner_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for split, count in (("train", 30), ("test", 3)):
        rows = "".join(f'{{"text": "{split} {n}", "summary": "s {n}"}}\n' for n in range(count))
        (folder / f"{split}.jsonl").write_text(rows)
    return tmp_path


COLUMNS = {"source": "text", "target": "summary"}


def load(base: Path, **keys: object) -> dict[str, int]:
    splits, _ = load_splits(DataConfig.model_validate({"columns": COLUMNS, **keys}), base=base)
    return {name: len(records) for name, records in splits.items()}


def test_splits_of_the_hub(owner_name: Path) -> None:
    found = load(owner_name, source="hub:owner/name", validation_share=0.3)
    assert found["test"] == 3 and found["train"] + found["validation"] == 30 and found["validation"] > 0
    cut = load(owner_name, source="hub:owner/name", split="train", validation_share=0.0, test_share=0.5)
    assert cut["test"] > 3 and cut["test"] + cut["train"] == 30
    assert load(owner_name, train="hub:owner/name", test="hub:owner/name", validation_share=0.0)["test"] == 3


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"source": "hub:owner/name", "split": "trian"}, "did you mean 'train'"),
        ({"source": "hub:owner/name", "columns": {"source": "txt", "target": "summary"}}, "did you mean 'text'"),
        ({"source": "hub:nobody/nothing"}, "hub:nobody/nothing"),
        ({"source": "hub:a/b/c"}, "write hub:owner/name"),
    ],
)
def test_refusals_are_one_line(owner_name: Path, keys: dict[str, object], part: str) -> None:
    with pytest.raises(DataError) as caught:
        load(owner_name, **keys)
    assert part in str(caught.value) and "\n" not in str(caught.value)
