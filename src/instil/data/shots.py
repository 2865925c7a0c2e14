"""Examples in the prompt (few-shot; Brown et al. 2020, arXiv 2005.14165): a prompt that shows how it is done first."""

from __future__ import annotations

import random
from collections.abc import Sequence

from instil.core.errors import DataError
from instil.data.prompts import SLOT, Prompt
from instil.data.records import Record

BETWEEN = "\n\n"
"""What stands between two examples. A text that goes on behind it has begun an example of its own."""


def choose_shots(records: Sequence[Record], count: int, seed: int | str) -> list[Record]:
    """`count` of `records`, drawn by `seed`. Raises `DataError` where there are fewer."""
    usable = [record for record in records if SLOT not in record.source + record.targets[0]]
    if len(usable) < count:
        raise DataError(
            f"{count} examples are to stand in the prompt but there are {len(usable)} records; ask for fewer"
        )
    return random.Random(f"shots/{seed}").sample(usable, count)


def with_shots(prompt: Prompt, shots: Sequence[Record]) -> Prompt:
    """`prompt` behind `shots`, each as the model would have met and answered it. A chat prompt has them in what the
    user says."""
    if not shots:
        return prompt
    slotted = prompt.text + SLOT if prompt.kind == "prefix" else prompt.text
    joint = " " if prompt.kind == "chat" else prompt.separator
    shown = [slotted.replace(SLOT, shot.source) + joint + shot.targets[0] for shot in shots]
    return Prompt(
        kind="chat" if prompt.kind == "chat" else "template", text=BETWEEN.join([*shown, slotted]), system=prompt.system
    )


def until_next(text: str) -> str:
    """What `text` says before it begins another example."""
    return text.partition(BETWEEN)[0].strip()
