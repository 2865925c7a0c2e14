"""Nearness to the teacher and calibration, against the whole distributions in fp64, of both families."""

import numpy as np
import pytest
import torch

import tiny
from instil.core.errors import ModelError
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Encoded
from instil.evaluate import fidelity
from instil.evaluate.compare import evaluate_systems
from instil.evaluate.fidelity import BINS, Reader, calibration_error, examine
from instil.evaluate.reading import examine_systems
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator

EXAMPLES = [
    Encoded(str(i), tuple(range(5, 9 + i)), tuple((7 * i + 3 * j) % 200 + 3 for j in range(2 + i))) for i in range(6)
]


def reader(name: str, seed: int) -> Reader:
    model = tiny.tiny_model(name, seed=seed)
    return Reader(model, family_of(model, pad_id=tiny.PAD, n_valid=tiny.VOCABULARY))


def log_probs(one: Reader) -> list[torch.Tensor]:
    """Each example's rows in fp64, alone in its batch."""
    found = []
    for example in EXAMPLES:
        with torch.inference_mode():
            rows = one.rows([example])
            found.append(rows.head.logits(rows.hidden_ND).double().log_softmax(-1))
    return found


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_sums_are_those_of_the_whole_distributions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "_CHUNK_NUMBERS", 3 * tiny.VOCABULARY)
    student, teacher = reader(name, 0), reader(name, 1)
    found = {one.measure.name: one for one in examine(student, EXAMPLES, teacher=teacher, batch_tokens=40)}
    log_q, log_p = log_probs(student), log_probs(teacher)
    targets = [torch.tensor(example.target_ids) for example in EXAMPLES]
    oracles = {
        "loss": lambda q, p, target: -q.gather(1, target[:, None]).mean(),
        "teacher_kl": lambda q, p, target: (p.exp() * (p - q)).sum(-1).mean(),
        "teacher_agreement": lambda q, p, target: 100.0 * (p.argmax(-1) == q.argmax(-1)).double().mean(),
        "speculative_acceptance": lambda q, p, target: 100 * torch.minimum(p.exp(), q.exp()).sum(-1).mean(),
    }
    for measure, oracle in oracles.items():
        each = [float(oracle(q, p, target)) for q, p, target in zip(log_q, log_p, targets, strict=True)]
        assert found[measure].each == pytest.approx(each, abs=2e-4), measure
        whole = float(oracle(torch.cat(log_q), torch.cat(log_p), torch.cat(targets)))
        assert found[measure].value == pytest.approx(whole, abs=2e-4)
    assert found["calibration_error"].value == pytest.approx(
        plain_error(torch.cat(log_q), torch.cat(targets)), abs=1e-3
    )


def plain_error(log_q_NV: torch.Tensor, target_N: torch.Tensor) -> float:
    confidence_N, choice_N = log_q_NV.exp().max(-1)
    total = 0.0
    for number in range(BINS):
        inside = (confidence_N >= number / BINS) & (confidence_N < (number + 1) / BINS)
        if inside.any():
            gap = confidence_N[inside].mean() - (choice_N == target_N)[inside].double().mean()
            total += float(inside.sum() * gap.abs())
    return 100 * total / len(target_N)


def test_a_model_is_its_own_best_student() -> None:
    one = reader("qwen3", 0)
    found = {counted.measure.name: counted.value for counted in examine(one, EXAMPLES, teacher=one)}
    assert found["teacher_kl"] == pytest.approx(0, abs=1e-5)
    assert found["teacher_agreement"] == 100
    assert found["speculative_acceptance"] == pytest.approx(100, abs=1e-3)


def test_calibration_error_by_hand() -> None:
    """Two bins: 4 rows of confidence 0.5 with 1 hit, 6 rows of 0.9 with 6 hits: (|2 - 1| + |5.4 - 6|) / 10."""
    sums = np.zeros((1, 3, BINS))
    sums[0, :, 7], sums[0, :, 13] = (4, 2, 1), (6, 5.4, 6)
    assert calibration_error(sums.reshape(1, -1)) == pytest.approx(16.0)


def test_other_vocabularies_are_refused() -> None:
    model = tiny.tiny_model("llama")
    whole = Reader(model, family_of(model, pad_id=tiny.PAD))
    with pytest.raises(ModelError, match="264 ids, the student's 259"):
        examine(reader("llama", 0), EXAMPLES, teacher=whole)


RECORDS = [Record(str(i), f"source {i}", (f"target number {i}",)) for i in range(5)]


def system(name: str, seed: int) -> TransformersGenerator:
    model = tiny.tiny_model(name, seed=seed)
    kind = "encoder-decoder" if name in tiny.ENCODER_DECODER else "decoder-only"
    return TransformersGenerator(model, tiny.tiny_tokenizer(kind), Prompt(), name=name, max_source_tokens=32)


def test_a_comparison_reads_targets_through_every_model() -> None:
    systems = {"teacher": system("llama", 0), "student": system("qwen3", 0), "foreign": system("t5", 0)}
    told: list[float] = []
    found = evaluate_systems(
        systems, RECORDS, teacher="teacher", max_new_tokens=4, latency_items=0, fidelity_items=4, metrics=["chrf"],
        advance=lambda done, _: told.append(done),
    )  # fmt: skip
    assert set(found["teacher"].metrics) == {"chrf", "loss", "calibration_error"}
    assert set(found["student"].metrics) == {
        "chrf", "loss", "calibration_error", "teacher_kl", "teacher_agreement", "speculative_acceptance",
    }  # fmt: skip
    assert found["student"].metrics["teacher_kl"].n == 4
    assert any("foreign has other tokens than teacher" in remark for remark in found.remarks)
    assert told[-1] == 3 * 5 + 3 * 4
    _, remarks = examine_systems({"student": systems["student"]}, RECORDS, teacher="teacher", longest_target=4)
    assert remarks == ["teacher does not show what it predicts, so nearness to it is not measured"]
