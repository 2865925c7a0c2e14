"""Outputs of a teacher that is far away, stored as JSON lines: targets for a student, without the teacher's weights.

A line is one of
- `{"id": ..., "target": ...}`, a text or a list of several;
- a result of an OpenAI or Azure OpenAI batch: `{"custom_id": ..., "response": {"status_code": 200, "body": {"choices":
  [{"message": {"content": ...}}, ...], "usage": ...}}, "error": null}`, chat or plain completions; several choices are
  several targets;
- a chat, as data sets for fine-tuning have them: `{"messages": [{"role": "user", "content": ...}, ..., {"role":
  "assistant", "content": ...}]}`, whose last message is the target. An `id` beside `messages` is the record's; without
  one it is the record whose source the last user message is.
The id is a training record's. Requests that failed there are left out and counted.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instil.core.errors import LabelError, storage_error
from instil.data.records import Record


@dataclass(slots=True)
class Completions:
    """Targets by record id, in the file's order, and of chats without one by source; `failed` requests; tokens read and
    written there."""

    targets: dict[str, list[str]] = field(default_factory=dict)
    by_source: dict[str, list[str]] = field(default_factory=dict)
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __str__(self) -> str:
        each = [*self.targets.values(), *self.by_source.values()]
        parts = [f"{sum(map(len, each)):,} completions of {len(each):,} records"]
        if self.failed:
            parts.append(f"{self.failed:,} requests failed")
        if self.prompt_tokens or self.completion_tokens:
            parts.append(f"{self.prompt_tokens:,} tokens read and {self.completion_tokens:,} written by the teacher")
        return ", ".join(parts)

    def of(self, record: Record) -> list[str]:
        """The targets of `record`."""
        return self.targets.get(record.id) or self.by_source.get(record.source.strip(), [])


def read_completions(path: Path) -> Completions:
    """What stands in the file at `path` (also gzipped). Raises `LabelError` for a line that is none of the forms."""
    found = Completions()
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode("utf8").split("\n")
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: not readable as UTF-8 JSON lines ({error}); save it as UTF-8") from error
    except OSError as error:
        raise storage_error(error, path) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                _take(json.loads(line), found)
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise LabelError(
                    f"{path}, line {number}: {reason}; a line is a JSON object with id and target, a batch result, or a"
                    " chat: messages"
                ) from error
    if not found.targets and not found.by_source:
        raise LabelError(f"{path}: no completion in it; check that the batch has ended well")
    return found


def _take(row: Any, found: Completions) -> None:
    place = found.targets
    if "custom_id" in row:
        record, texts = str(row["custom_id"]), _choices(row, found)
    elif "messages" in row:
        record, texts = _chat(row)
        place = found.targets if "id" in row else found.by_source
    else:
        record, target = str(row["id"]), row["target"]
        texts = target if isinstance(target, list) else [target]
    if any(not isinstance(text, str) for text in texts):
        raise TypeError(f"record {record!r} has a completion that is no text")
    kept = [text.strip() for text in texts if text.strip()]
    if kept:
        place.setdefault(record, []).extend(kept)


def _chat(row: dict[str, Any]) -> tuple[str, list[Any]]:
    """The id that it names, else its last user message; and what the assistant answers, nothing where it refused."""
    *before, last = row["messages"]
    if last["role"] != "assistant":
        raise ValueError(f"its last message is of role {last['role']!r}, not the assistant's")
    texts = [] if last["content"] is None else [last["content"]]
    if "id" in row:
        return str(row["id"]), texts
    users = [message["content"] for message in before if message["role"] == "user"]
    if not users or not isinstance(users[-1], str):
        raise ValueError("it has neither an id nor a user message of plain text")
    return users[-1].strip(), texts


def _choices(row: dict[str, Any], found: Completions) -> list[Any]:
    response = row["response"]
    if row.get("error") or not response or response.get("status_code", 200) != 200:
        found.failed += 1
        return []
    body = response["body"]
    usage = body.get("usage") or {}
    found.prompt_tokens += usage.get("prompt_tokens", 0)
    found.completion_tokens += usage.get("completion_tokens", 0)
    # A refusal has no content.
    texts = [choice["message"]["content"] if "message" in choice else choice["text"] for choice in body["choices"]]
    return [text for text in texts if text is not None]
