"""How probable a model in memory finds texts: the mean log-probability of each target's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from instil.data.batches import epoch_batches
from instil.data.tokens import Encoded
from instil.labels.teacher import Teacher, chunks


@torch.inference_mode()
def mean_log_probs(
    teacher: Teacher, examples: Sequence[Encoded], advance: Callable[[int], None] = lambda _: None
) -> list[float]:
    """Nats a token, at most 0, of each of `examples`, in their order. `advance` hears how many are done."""
    lengths = [example.length for example in examples]
    found = [0.0] * len(examples)
    done = 0
    for indices in epoch_batches(lengths, tokens=max([teacher.batch_tokens, *lengths]), seed=0, epoch=0):
        rows = teacher.rows([examples[index] for index in indices])
        target_N = torch.tensor([token for index in indices for token in examples[index].target_ids])
        parts = [
            logits_CV.gather(1, target_C[:, None])[:, 0] - logits_CV.logsumexp(-1)
            for logits_CV, target_C in chunks(rows, target_N)
        ]
        each = torch.split(torch.cat(parts).cpu().double(), [len(examples[index].target_ids) for index in indices])
        for index, log_probs in zip(indices, each, strict=True):
            found[index] = float(log_probs.mean())
        done += len(indices)
        advance(done)
    return found
