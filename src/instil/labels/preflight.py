"""The alignment canary: do rows, targets and labels of one batch point at the same tokens?

Shape letters: N rows, V vocabulary, K entries of a label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from instil.core.problems import Problem, fail, info
from instil.data.tokens import Encoded
from instil.models.family import Batch

_AGREEING, _SURE = 0.6, 0.3
_RESAMPLES = 1000


def rows_misplaced(role: str, batch: Batch, examples: Sequence[Encoded], start_id: int | None) -> list[Problem]:
    """Whether each row of `batch` stands where the token before its target is read, and has that target.

    `start_id`: what an encoder-decoder's decoder begins with; None where the prompt stands before the target.
    """
    name = "input_ids" if start_id is None else "decoder_input_ids"
    read = batch.inputs[name].flatten()[batch.row_index_N].tolist()
    before = [
        token
        for example in examples
        for token in (example.prompt_ids[-1] if start_id is None else start_id, *example.target_ids[:-1])
    ]
    targets = [token for example in examples for token in example.target_ids]
    wrong = (
        sum(one != other for one, other in zip(read, before, strict=True)) if len(read) == len(before) else len(read)
    )
    if not wrong and batch.target_N.tolist() == targets:
        return []
    evidence = f"{wrong:,} of {len(before):,} rows stand at another token"
    remedy = "this is a fault of instil's for this architecture; please report it, and choose another model"
    return [
        fail("rows-misplaced", f"the {role}'s rows are not where its targets are predicted", remedy, evidence=evidence)
    ]


def stored_apart(
    ids_NK: Int[Tensor, "n k"], probs_NK: Float[Tensor, "n k"], logits_NV: Float[Tensor, "n v"]
) -> list[Problem]:
    """Whether stored labels are those of the rows that they are read for: their first choice is the live teacher's."""
    first = probs_NK.max(-1)
    # Where it is unsure, what stands first is an id that was drawn.
    sure_N = first.values >= min(_SURE, float(first.values.median()))
    stored_N = ids_NK.gather(1, first.indices[:, None])[sure_N, 0]
    share = float((stored_N == logits_NV.argmax(-1)[sure_N]).float().mean())
    evidence = f"the first choice is the teacher's own in {share:.0%} of {len(stored_N):,} rows"
    if share >= _AGREEING:
        return [info("labels-agree", "stored labels are the teacher's", evidence=evidence)]
    remedy = "label again: leave labels.store out, or name the store of this teacher and data"
    return [fail("labels-misaligned", "the stored labels belong to other rows", remedy, evidence=evidence)]


def says_nothing(logits_NV: Float[Tensor, "n v"], target_N: Int[Tensor, " n"], *, seed: int = 0) -> list[Problem]:
    """Whether the teacher's distributions know the rows that they stand at: shuffled among the rows, they must fit the
    targets worse. The interval is a bootstrap over rows."""
    log_NV = logits_NV.log_softmax(-1)
    order = torch.randperm(len(target_N), generator=torch.Generator().manual_seed(seed)).to(target_N.device)
    own_N, shuffled_N = (-each.gather(1, target_N[:, None])[:, 0] for each in (log_NV, log_NV[order]))
    gain_N = (shuffled_N - own_N).double().cpu().numpy()
    dice = np.random.default_rng(seed)
    means = gain_N[dice.integers(0, len(gain_N), (_RESAMPLES, len(gain_N)))].mean(1)
    own, shuffled = float(own_N.mean()), float(shuffled_N.mean())
    evidence = f"{own:.2f} nats a token at their own rows, {shuffled:.2f} shuffled, over {len(gain_N):,} rows"
    if float(np.quantile(means, 0.025)) > 0:
        return [info("labels-informative", "labels fit their own rows better than others", evidence=evidence)]
    remedy = "fine-tune the teacher first (add teacher.teach), or check prompt and columns"
    return [
        fail(
            "labels-say-nothing", "the teacher's labels fit other rows as well as their own", remedy, evidence=evidence
        )
    ]
