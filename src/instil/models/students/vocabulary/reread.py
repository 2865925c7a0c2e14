"""A tokenizer with some of its files written anew, as transformers reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from instil.models.folders import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_SETTINGS = "tokenizer_config.json"


def reread(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    files: Mapping[str, bytes],
    changed: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> PreTrainedTokenizerBase:
    """The tokenizer that transformers makes of `files`, by name, with the settings beside them `changed`; `tokenizer`
    is untouched. `config`: of the model that it stands beside, since transformers chooses a tokenizer's class by it."""
    from transformers import AutoTokenizer

    with TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)
        for path in folder.iterdir():
            if path.name.startswith(("vocab.", "merges.")) or path.suffix in (".model", ".spm"):
                path.unlink()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf8"))
        (folder / _SETTINGS).write_text(json.dumps(changed(settings)), encoding="utf8")
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    made.name_or_path = tokenizer.name_or_path
    return made
