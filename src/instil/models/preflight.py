"""Checks of one model, from its settings and its tokenizer alone: licence, prompt, end token, room for the data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from instil.core.errors import ModelError
from instil.core.problems import Problem, fail, info, warn
from instil.data.prompts import Prompt
from instil.data.tokens import Encoded, Kind
from instil.models import wheels
from instil.models.folders import UNKNOWN_LICENCE
from instil.models.loading import GGUF_SUFFIX, Reader

_FREE = ("apache-2.0", "mit", "bsd", "cc0", "cc-by-4.0", "cc-by-sa", "unlicense", "isc", "mpl-2.0", "postgresql")
_HUB_SECONDS = 5.0


def preflight(role: str, reader: Reader, prompt: Prompt) -> list[Problem]:
    """What `role`'s settings and tokenizer say against it, whatever the data."""
    return [*licence(role, reader.licence), *template(role, reader.tokenizer, prompt), *end_token(role, reader)]


def licence(role: str, name: str) -> list[Problem]:
    """Which licence a student inherits."""
    if name == UNKNOWN_LICENCE:
        remedy = "read its licence where it comes from; what is made from a model or its texts may be bound by it"
        return [info("licence-unknown", f"the {role} names no licence", remedy)]
    if name.lower().startswith(_FREE):
        return [info("licence", f"the {role} is under {name}")]
    remedy = "read it before you publish or sell what is made from this model or from its texts"
    return [warn("licence-conditions", f"the {role} is under {name}, which has conditions", remedy)]


def template(role: str, tokenizer: Any, prompt: Prompt) -> list[Problem]:
    """Whether the recipe's kind of prompt is one that the tokenizer knows."""
    has_one = bool(getattr(tokenizer, "chat_template", None))
    if prompt.kind == "chat" and not has_one:
        remedy = "use prompt.kind: template, or a model that was taught to chat"
        return [fail("chat-template-missing", f"the {role}'s tokenizer has no chat template", remedy)]
    if prompt.kind != "chat" and has_one:
        remedy = "an untaught teacher may do better with prompt.kind: chat; a taught one has learned this prompt"
        return [info("chat-template-unused", f"the {role} knows a chat template, and the prompt leaves it out", remedy)]
    return []


def end_token(role: str, reader: Reader) -> list[Problem]:
    """Whether the model is taught to stop by the token that it stops at."""
    end = reader.tokenizer.eos_token_id
    if end is None:
        remedy = "set eos_token in its tokenizer_config.json; without it nobody learns to stop"
        return [fail("end-token-missing", f"the {role}'s tokenizer has no end token", remedy)]
    declared = reader.config.get("eos_token_id")
    known = declared if isinstance(declared, list) else [declared]
    if declared is None or end in known:
        return []
    evidence = f"the tokenizer ends with {end} ({reader.tokenizer.eos_token}), config.json says {declared}"
    remedy = "make both the same; engines other than ours stop at config.json's"
    return [warn("end-token-differs", f"the {role} has two end tokens", remedy, evidence=evidence)]


class WeightsNotFinite(ModelError):
    """A model whose training went wrong, or whose file is damaged."""

    code = "weights-not-finite"


def require_finite(model: nn.Module, ref: str) -> None:
    """Raises `WeightsNotFinite` where a weight of `model`, which `ref` names, is no number."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise WeightsNotFinite(f"{ref}: {name} has weights that are no numbers; get the model again")


def positions(config: Mapping[str, Any]) -> int | None:
    """Most tokens that a model has places for; None where positions are relative."""
    inner = config.get("text_config") or config
    found = next((inner[name] for name in ("max_position_embeddings", "n_positions", "n_ctx") if inner.get(name)), None)
    # T5 names the length that it was trained at, and has no table of places.
    return None if "relative_attention_num_buckets" in inner else found


def context(role: str, reader: Reader, examples: Sequence[Encoded], *, target: int, written: int) -> list[Problem]:
    """Whether prompts and targets fit into the model. `target`: the longest target in tokens that is learned,
    `written`: the most that are generated."""
    room = positions(reader.config)
    if room is None or not examples:
        return []
    prompt = max(len(example.prompt_ids) for example in examples)
    needed = _needed(prompt, max(target, written), reader.kind)
    if needed <= room:
        return []
    evidence = f"{room:,} positions; prompts have up to {prompt:,} tokens and {max(target, written):,} are written"
    remedy = f"lower limits.source by {needed - room:,} or limits.target and evaluate.max_new_tokens"
    return [fail("context-short", f"the {role} cannot see a whole example", remedy, evidence=evidence)]


def _needed(prompt: int, written: int, kind: Kind) -> int:
    return prompt + written if kind == "decoder-only" else max(prompt, written)


def hub(ref: str, revision: str | None = None) -> list[Problem]:
    """Whether a model that is on the hub only can be had. Asks the hub where its cache has no such model."""
    if not _on_hub(ref) or _cached(ref, revision):
        return []
    remedy = "connect to the network, set HF_ENDPOINT to a mirror, or give a local folder"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return [fail("hub-unreachable", f"{ref} is on the hub only, and HF_HUB_OFFLINE is set", remedy)]
    if reason := _unreachable():
        return [fail("hub-unreachable", f"{ref} is on the hub only, which cannot be reached", remedy, evidence=reason)]
    return []


def _on_hub(ref: str) -> bool:
    path = Path(ref).expanduser()
    plain = ref.count("/") <= 1 and not ref.startswith((".", "/", "~"))
    return plain and not ref.startswith(wheels.PREFIX) and path.suffix != GGUF_SUFFIX and not path.exists()


def _cached(ref: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(ref, "config.json", revision=revision), str)
    except HFValidationError:
        return True  # Loading it says what is wrong with the name.


def _unreachable() -> str:
    """Why the hub does not answer; empty where it does."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub.constants import ENDPOINT

    try:
        with urlopen(Request(ENDPOINT, method="HEAD"), timeout=_HUB_SECONDS):
            return ""
    except HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"{ENDPOINT}: {getattr(error, 'reason', error)}"
