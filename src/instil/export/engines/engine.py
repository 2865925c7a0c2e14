"""What all engines share: the student's tokenizer and prompt around an engine that turns ids into ids.

Shape letters: T tokens written, K ids told of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instil.core.errors import ModelError
from instil.data.tokens import encode_prompt
from instil.export.sheet import read_sheet
from instil.models import folders

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLD = 64
"""Of how many ids an engine tells the probability, at each token of a trace."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One greedy text, step by step: the ids written (with the end token, if it came), and at each step the ids that
    the engine found most probable, shape `(T, K)`, with their log probabilities."""

    written: list[int]
    ids_TK: NDArray[np.int64]
    log_probs_TK: NDArray[np.float32]


def most_probable(logits_TV: NDArray[Any], written: Sequence[int]) -> Trace:
    """The trace of `written`, of whose steps all `logits_TV` are known."""
    wide_TV = logits_TV.astype(np.float64)
    highest_T1 = wide_TV.max(-1, keepdims=True)
    log_TV = wide_TV - highest_T1 - np.log(np.exp(wide_TV - highest_T1).sum(-1, keepdims=True))
    ids_TK = np.argsort(-log_TV, axis=-1)[:, :TOLD]
    return Trace(list(written), ids_TK, np.take_along_axis(log_TV, ids_TK, -1).astype(np.float32))


class Engine:
    """A `Generator` over an export. A child says how ids are written and traced; all else is here.

    Raises `ModelError` for a folder that is no export.
    """

    weights: tuple[str, ...] = ()
    """Patterns of the files that hold the weights."""
    positions: int | None
    """Tokens that it has room for: of prompt and text together for a decoder, else of each; None where that is not
    told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sheet = read_sheet(folder)
        self.positions = self.sheet.positions

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.sheet.name} ({self.sheet.format} {self.sheet.precision})"

    @property
    def parameters(self) -> int:
        """Number of the student's distinct weights."""
        return self.sheet.parameters

    @property
    def bytes(self) -> int:
        """Bytes of the files that hold the weights."""
        return sum(path.stat().st_size for pattern in self.weights for path in self.folder.glob(pattern))

    @cached_property
    def tokenizer(self) -> Any:
        """The student's, as it travels with the export."""
        from transformers import AutoTokenizer

        with folders.quiet_transformers():
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        """One text for each source, in their order, greedy, of at most `max_new_tokens` tokens.

        Raises `ModelError` for a source that gives no tokens.
        """
        written = self.write([self.read(source) for source in sources], max_new_tokens, batch_size)
        return [str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in written]

    def read(self, source: str) -> list[int]:
        """What the model reads of `source`."""
        sheet = self.sheet
        ids = encode_prompt(self.tokenizer, sheet.prompt, source, sheet.source_limit, sheet.kind)
        if not ids:
            raise ModelError(f"the source {source!r} gives no tokens; leave it out or use a prompt with text")
        return ids

    def reads_alike(self, source: str) -> bool:
        """Whether the engine by itself reads `source` in the same tokens; true of one that has no tokenizer."""
        return True

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int) -> list[list[int]]:
        """The ids written behind each prompt, greedily, without the end token."""
        raise NotImplementedError

    def trace(self, prompt: list[int], max_new_tokens: int) -> Trace:
        """One text step by step, with nothing forced or forbidden."""
        raise NotImplementedError


class StepwiseEngine(Engine):
    """An engine that is asked for one token at a time. A child says what follows a text."""

    def following(self, prompt: list[int], read: list[int]) -> NDArray[Any]:
        """Logits, shape `(V,)`, of the token behind what the decoder has `read`; `prompt` is what an encoder reads."""
        raise NotImplementedError

    @property
    def forced(self) -> list[int]:
        """The ids that every text begins with."""
        first = self.sheet.alphabet.first
        return [] if first is None else [first]

    def going_on(
        self, prompt: list[int], choose: Callable[[NDArray[Any]], int], forced: Sequence[int], banned: list[int]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """What `choose` makes of the logits behind `prompt` and `forced`, and these, without end: id after id."""
        # A decoder behind an encoder begins with its start token.
        read = [*(prompt if self.sheet.kind == "decoder-only" else [self.sheet.alphabet.start or 0]), *forced]
        while True:
            logits_V = np.array(self.following(prompt, read))
            logits_V[banned] = -np.inf
            read.append(choose(logits_V))
            yield read[-1], logits_V

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int) -> list[list[int]]:
        """The ids written behind each prompt, one prompt after the other."""
        ends = self.sheet.alphabet.ends
        found = [self._steps(prompt, max_new_tokens, self.forced, self.sheet.alphabet.banned)[0] for prompt in prompts]
        return [[token for token in written if token not in ends] for written in found]

    def trace(self, prompt: list[int], max_new_tokens: int) -> Trace:
        """One text step by step."""
        written, logits_TV = self._steps(prompt, max_new_tokens, [], [])
        return most_probable(np.stack(logits_TV), written)

    def _steps(
        self, prompt: list[int], count: int, forced: list[int], banned: list[int]
    ) -> tuple[list[int], list[NDArray[Any]]]:
        ends, written, steps = self.sheet.alphabet.ends, list(forced), []
        going_on = self.going_on(prompt, lambda logits_V: int(logits_V.argmax()), forced, banned)
        while len(written) < count and not (written and written[-1] in ends):
            token, logits_V = next(going_on)
            written.append(token)
            steps.append(logits_V)
        return written, steps
