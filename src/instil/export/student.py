"""The student that is exported: a stage's folder or any folder of transformers, with the prompt that it learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from instil.core.config import parse
from instil.core.errors import ConfigError, ModelError
from instil.data.prompts import Prompt
from instil.data.tokens import encode_prompt
from instil.export.sheet import SHEET_NAME, Alphabet, Format, Sheet, read_sheet
from instil.models.generation import ALPHABET, TransformersGenerator
from instil.models.loading import LoadedModel, count_parameters, load_model
from instil.models.preflight import positions

if TYPE_CHECKING:
    from torch import Tensor

_MODEL, _RECIPE = "model", "recipe.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A loaded student and how it reads: its prompt, and the longest source and target in tokens, if known."""

    name: str
    loaded: LoadedModel
    prompt: Prompt
    source_limit: int | None = None
    target_limit: int | None = None

    @property
    def generator(self) -> TransformersGenerator:
        """The student as transformers runs it, greedily."""
        return TransformersGenerator(
            self.loaded.model, self.loaded.tokenizer, self.prompt, name=self.name, max_source_tokens=self.source_limit
        )

    def read(self, source: str) -> list[int]:
        """What it reads of `source`."""
        loaded = self.loaded
        return encode_prompt(loaded.tokenizer, self.prompt, source, self.source_limit, loaded.kind)

    def sheet(self, target: Format, precision: str) -> Sheet:
        """What travels with an export of it. Raises `ModelError` for a setting that no engine knows."""
        model = self.loaded.model
        return Sheet(
            name=self.name, format=target, precision=precision, kind=self.loaded.kind, prompt=self.prompt,
            alphabet=_alphabet(self.loaded), source_limit=self.source_limit, target_limit=self.target_limit,
            parameters=count_parameters(model), vocabulary=model.config.get_text_config(decoder=True).vocab_size,
            positions=positions(model.config.to_dict()), student=self.loaded.fingerprint, licence=self.loaded.licence,
        )  # fmt: skip

    def log_probs(self, prompt: list[int], written: list[int], start: int | None) -> Tensor:
        """Its log probabilities, shape `(T, V)`, at the `T` tokens of `written` behind `prompt`."""
        import torch

        model = self.loaded.model
        with torch.inference_mode():
            if self.loaded.kind == "decoder-only":
                logits_TV = model(torch.tensor([[*prompt, *written[:-1]]])).logits[0, -len(written) :]
            else:
                begun = torch.tensor([[start, *written[:-1]]])
                logits_TV = model(torch.tensor([prompt]), decoder_input_ids=begun).logits[0]
            return logits_TV.float().log_softmax(-1)


def open_student(folder: Path, *, prompt: Prompt | None = None, source_limit: int | None = None) -> Student:
    """The student in `folder`: of a stage (whose recipe.yaml tells prompt and limits), an export to transformers, or
    any folder that transformers can load. What is given goes over what is found.

    Raises `ModelError` for a folder that holds no model, `ConfigError` for a recipe.yaml that cannot be read.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give a stage's folder such as runs/NAME/distil-..., or a model's")
    found, limits = _known(folder)
    place = folder / _MODEL if (folder / _MODEL).is_dir() else folder
    loaded = load_model(str(place))
    return Student(
        name=folder.resolve().name, loaded=loaded, prompt=prompt or found,
        source_limit=source_limit or limits.get("source"), target_limit=limits.get("target"),
    )  # fmt: skip


def _known(folder: Path) -> tuple[Prompt, Mapping[str, int]]:
    if (folder / SHEET_NAME).is_file():
        sheet = read_sheet(folder)
        sizes = {"source": sheet.source_limit, "target": sheet.target_limit}
        return sheet.prompt, {name: size for name, size in sizes.items() if size}
    path = next((place / _RECIPE for place in (folder, folder.parent) if (place / _RECIPE).is_file()), None)
    if path is None:
        return Prompt(), {}
    try:
        recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf8"))
        prompt = parse(Prompt, recipe.get("prompt") or {}, name=str(path))
        return prompt.before((recipe.get("data") or {}).get("prefix") or ""), dict(recipe.get("limits") or {})
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: is no recipe; give the stage's own, or remove it") from error


def _alphabet(loaded: LoadedModel) -> Alphabet:
    own, tokenizer, model = loaded.model.generation_config, loaded.tokenizer, loaded.model
    given = {name: value for name in ALPHABET if (value := getattr(own, name, None)) is not None}
    own_ends = [own.eos_token_id] if isinstance(own.eos_token_id, int) else list(own.eos_token_id or ())
    ends = tuple(dict.fromkeys(end for end in (tokenizer.eos_token_id, *own_ends) if end is not None))
    if given.get("begin_suppress_tokens"):
        raise ModelError(f"{loaded.ref}: its begin_suppress_tokens are nothing that engines know; remove them from it")
    pad = tokenizer.pad_token_id
    start = given.get("decoder_start_token_id", getattr(model.config, "decoder_start_token_id", None))
    never = (*map(tuple, given.get("bad_words_ids", ())), *((token,) for token in given.get("suppress_tokens", ())))
    return Alphabet(
        ends=ends, pad=pad if pad is not None else (ends or (0,))[0],
        start=start if loaded.kind == "encoder-decoder" else None, first=given.get("forced_bos_token_id"), never=never,
    )  # fmt: skip
