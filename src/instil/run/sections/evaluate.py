"""Section `evaluate`: what is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from instil.core.config import Config
from instil.data.records import MAIN_TASK


class EvaluateConfig(Config):
    """What is measured: the first `items` of `split` (all when not given), outputs of at most `max_new_tokens` by beam
    search over `beams`, latency over `latency_items` of them; where there are several tasks, of `task`."""

    task: str = MAIN_TASK
    split: Literal["validation", "test"] = "test"
    items: PositiveInt | None = None
    max_new_tokens: PositiveInt = 128
    beams: PositiveInt = 1
    batch_size: PositiveInt = 16
    latency_items: PositiveInt = 30
