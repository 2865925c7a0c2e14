"""What clients may ask, in OpenAI's terms and two of our own: `priority` (lower goes first) and `deadline_s`.

On OpenAI's routes fields that we do not know are ignored, as clients send many; those that would change the answer are
refused by name. /v1/generate is our own, and refuses what it does not know.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from instil.serve.jobs import Sampling

TokenIds = list[Annotated[int, Field(ge=0, lt=2**31)]]
_MOST_STOPS = 16


def _listed(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


def _or_default(default: Any) -> BeforeValidator:
    """Null means the default, as OpenAI has it."""
    return BeforeValidator(lambda value: default if value is None else value)


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    BeforeValidator(_listed), Field(max_length=_MOST_STOPS),
]  # fmt: skip
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},),
    "top_k": (-1, 0), "min_p": (0,), "suffix": ("",), "best_of": (1,),
}  # fmt: skip
"""What would change the answer and is not done, with the values that ask for nothing."""
_HALF = re.compile("[\ud800-\udfff]")
"""A lone surrogate: JSON can spell it, but it is no character, and no tokenizer takes it."""


def _torn(value: Any) -> bool:
    """Whether a text anywhere in `value` holds half a character."""
    left = [value]
    while left:  # Without recursion, however deep JSON may be.
        match left.pop():
            case str() as text if _HALF.search(text):
                return True
            case list() as items:
                left += items
            case dict() as items:
                left += [*items, *items.values()]
    return False


class StreamOptions(BaseModel):
    """`include_usage`: a last chunk tells the tokens."""

    include_usage: Annotated[bool, _or_default(False)] = False


class Written(BaseModel):
    """What all requests share: the model, how it chooses tokens, where it stops, and how long it may wait."""

    model_config = ConfigDict(protected_namespaces=())

    model: Annotated[str, Field(max_length=500)] | None = None
    temperature: Annotated[float, _or_default(0.0), Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, _or_default(1.0), Field(gt=0, le=1)] = 1.0
    seed: Seed | None = None
    stop: Stops = []
    priority: Annotated[int, _or_default(0), Field(ge=-100, le=100)] = 0
    deadline_s: Annotated[float, Field(gt=0, le=3600)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_half_characters(cls, values: Any) -> Any:
        torn = [name for name in values if _torn([name, values[name]])] if isinstance(values, dict) else []
        if torn:
            place = torn[0].encode("ascii", "backslashreplace").decode()
            raise ValueError(f"{place} holds half a character (a lone surrogate); send whole ones")
        return values

    @property
    def sampling(self) -> Sampling:
        """How tokens are to be chosen."""
        return Sampling(
            self.temperature, self.top_p if self.temperature else 1.0, self.seed if self.temperature else None
        )


class Asked(Written):
    """What requests in OpenAI's terms share."""

    n: Annotated[int, _or_default(1), Field(ge=1, le=8)] = 1
    stream: Annotated[bool, _or_default(False)] = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, neutral in NEUTRAL.items():
                if values.get(name) not in (None, *neutral):
                    raise ValueError(f"{name} is not supported; leave it out")
        return values


class CompletionRequest(Asked):
    """/v1/completions: the prompt goes to the model as it is."""

    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Annotated[bool, _or_default(False)] = False

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry a prompt: text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], (str, list)):
            return list(self.prompt)
        return [self.prompt]  # type: ignore[list-item]


class TextPart(BaseModel):
    """A part of a message; only texts are read."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One thing said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def said(self) -> dict[str, str]:
        """As chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Asked):
    """/v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[bool, _or_default(False)] = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_tools(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name in ("tools", "functions"):
                if values.get(name):
                    raise ValueError(f"{name} are not supported; leave them out")
            if (form := values.get("response_format")) not in (None, {"type": "text"}):
                raise ValueError(f"response_format {form!r} is not supported; leave it out")
        return values


class GenerateRequest(Written):
    """/v1/generate: texts in, texts out; each text gets the prompt that the model learned with."""

    model_config = ConfigDict(extra="forbid")

    inputs: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
