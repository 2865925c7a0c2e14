"""`instil.json`: what an export needs beside weights and tokenizer, so that whoever loads it writes the same texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, ValidationError

from instil.core import publish
from instil.core.config import Config
from instil.core.errors import ModelError
from instil.data.prompts import Prompt
from instil.data.tokens import Kind

SHEET_NAME = "instil.json"
Format = Literal["hf", "ctranslate2", "gguf", "onnx", "openvino"]


class Alphabet(Config):
    """The tokens that writing obeys: `ends` end a text, `start` and then `first` stand before it in the decoder of an
    encoder-decoder model, `never` holds sequences that are not written."""

    ends: tuple[int, ...]
    pad: int
    start: int | None = None
    first: int | None = None
    never: tuple[tuple[int, ...], ...] = ()

    @property
    def banned(self) -> list[int]:
        """The single tokens that are never written: all that an engine without sequences can forbid."""
        return [token for tokens in self.never if len(tokens) == 1 for token in tokens]


class Sheet(Config):
    """How a student reads and writes. `source_limit` and `target_limit` are in tokens, as it was trained; None where
    nothing is known. `positions`: tokens that it has places for, of prompt and text together where it is decoder-only,
    else of each; None where they are relative, or the export is of an older instil. Texts are written greedily."""

    name: str
    format: Format
    precision: str
    kind: Kind
    prompt: Prompt = Prompt()
    alphabet: Alphabet
    source_limit: PositiveInt | None = None
    target_limit: PositiveInt | None = None
    parameters: int
    vocabulary: PositiveInt
    positions: PositiveInt | None = None
    student: str
    """The student's fingerprint."""
    licence: str = "unknown"

    def write(self, folder: Path) -> None:
        """Write `instil.json` into `folder`."""
        publish.write_text(folder / SHEET_NAME, self.model_dump_json(indent=2) + "\n")


def read_sheet(folder: Path) -> Sheet:
    """The sheet of an export. Raises `ModelError` where `folder` holds none, or a damaged one."""
    path = folder / SHEET_NAME
    if not path.is_file():
        raise ModelError(
            f"{folder}: no export, it has no {SHEET_NAME}; make one with instil export STUDENT --to FORMAT"
        )
    try:
        return Sheet.model_validate(json.loads(path.read_text(encoding="utf8")))
    except (ValueError, ValidationError) as error:
        raise ModelError(f"{path}: damaged; export the student again") from error
