"""Answers in OpenAI's form."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from instil.serve.jobs import Answer, TokenScore

Shape = Literal["text", "chat"]
_OBJECTS = {"text": "text_completion", "chat": "chat.completion"}
OPENING = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
"""How a choice of a streamed chat begins."""
END_OF_STREAM = "data: [DONE]\n\n"


def head(shape: Shape, model: str, *, chunk: bool = False) -> dict[str, Any]:
    """What every answer, and every chunk of one, begins with."""
    name = _OBJECTS[shape] + (".chunk" if chunk and shape == "chat" else "")
    prefix = "cmpl" if shape == "text" else "chatcmpl"
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": name, "created": int(time.time()), "model": model}


def usage(prompts: int, answers: Sequence[Answer]) -> dict[str, int]:
    """Tokens; `prompts` is those of the prompts, each counted once."""
    written = sum(answer.new_tokens for answer in answers)
    return {"prompt_tokens": prompts, "completion_tokens": written, "total_tokens": prompts + written}


def choice(shape: Shape, index: int, answer: Answer, *, before: str = "", wanted: bool = False) -> dict[str, Any]:
    """One whole choice. `before`: the prompt, where it is echoed. `wanted`: with log probabilities."""
    scores = _scores(shape, answer.scores) if wanted else None
    text = before + answer.text
    said = {"text": text} if shape == "text" else {"message": {"role": "assistant", "content": text, "refusal": None}}
    return {"index": index, **said, "logprobs": scores, "finish_reason": answer.ended}


def piece(shape: Shape, index: int, text: str | None, ended: str | None = None) -> dict[str, Any]:
    """A choice of a chunk: some text, or its end."""
    said: Mapping[str, Any] = {"text": text or ""} if shape == "text" else {"delta": {"content": text} if text else {}}
    return {"index": index, **said, "logprobs": None, "finish_reason": ended}


def _scores(shape: Shape, scores: Sequence[TokenScore]) -> dict[str, Any]:
    if shape == "chat":
        return {"content": [_chat_score(score) for score in scores]}
    offsets, length = [], 0
    for score in scores:
        offsets.append(length)
        length += len(score.text)
    return {
        "tokens": [score.text for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [score.top if score.logprob is not None else None for score in scores],
        "text_offset": offsets,
    }


def _chat_score(score: TokenScore) -> dict[str, Any]:
    top = [_one(text, value) for text, value in score.top.items()]
    return {**_one(score.text, score.logprob or 0.0), "top_logprobs": top}


def _one(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def event(value: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_body(message: str, status: int, *, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}
