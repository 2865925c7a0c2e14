"""Examples in the prompt (few-shot; Brown et al. 2020, arXiv 2005.14165): a prompt that shows how it is done first."""

from __future__ import annotations

import random
from collections.abc import Sequence

from instil.core.errors import DataError
from instil.data.prompts import SLOT, Prompt
from instil.data.records import Record


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
        kind="chat" if prompt.kind == "chat" else "template",
        text=_between(shots).join([*shown, slotted]),
        system=prompt.system,
    )


def until_next(text: str, shots: Sequence[Record]) -> str:
    """What a model that was asked behind `shots` says before it begins an example of its own."""
    return text.partition(_between(shots))[0].strip() if shots else text


def _between(shots: Sequence[Record]) -> str:
    """What stands between two examples: an empty line, or more where their targets have empty lines themselves."""
    return "\n\n###\n\n" if any("\n\n" in shot.targets[0] for shot in shots) else "\n\n"
