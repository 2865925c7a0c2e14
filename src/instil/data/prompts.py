"""How a source becomes what the model reads: a prefix (T5's manner), a template, or the tokenizer's chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from instil.core.config import Config
from instil.core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{source}"


class Prompt(Config):
    """`prefix`: `text` before the source. `template`: `text` with "{source}" in it. `chat`: `text` is what the user
    says, with "{source}" in it, and `system` an optional system message; the tokenizer's own template does the rest.
    """

    kind: Literal["prefix", "template", "chat"] = "prefix"
    text: str = ""
    system: str | None = None

    @model_validator(mode="after")
    def _has_slot(self) -> Self:
        if self.kind != "prefix" and self.text.count(SLOT) != 1:
            raise ValueError(f'a {self.kind} prompt needs "{SLOT}" exactly once in text')
        if self.system is not None and self.kind != "chat":
            raise ValueError("system is only for chat prompts; remove it or set kind: chat")
        return self

    def render(self, source: str, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text the model reads before it writes. Raises `ConfigError` for a chat prompt without a template."""
        if self.kind == "prefix":
            return self.text + source
        text = self.text.replace(SLOT, source)
        if self.kind == "template":
            return text
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("the tokenizer has no chat template; use prompt kind template instead of chat")
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        messages = [*system, {"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def before(self, prefix: str) -> Prompt:
        """The prompt of who puts `prefix` before each source."""
        if not prefix:
            return self
        changed = self.text + prefix if self.kind == "prefix" else self.text.replace(SLOT, prefix + SLOT)
        return self.model_copy(update={"text": changed})

    @property
    def separator(self) -> str:
        """What stands between prompt and target for a decoder-only model: a space, unless the prompt ends in one."""
        if self.kind == "prefix":
            return " "
        return "" if self.kind == "chat" or self.text[-1].isspace() else " "
