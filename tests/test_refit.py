"""Mending cuts: the refitted projection brings the shortened model closer to its teacher, and touches nothing else."""

from __future__ import annotations

import pytest
import torch

from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.models.probe import evaluating
from instil.models.students.depth import keep_layers
from instil.models.students.refit import mend_cuts
from tiny import tiny_model

EXAMPLES = [
    Encoded(str(seed), tuple((seed * 31 + index * 7) % 250 + 3 for index in range(24)), (5, 9, 1)) for seed in range(24)
]


def _distance(student: torch.nn.Module, teacher: torch.nn.Module) -> float:
    family = family_of(teacher)
    with evaluating(teacher), evaluating(student):
        batch = family.collate(EXAMPLES)
        apart = family.rows(student, batch).hidden_ND - family.rows(teacher, batch).hidden_ND
    return float(apart.square().mean())


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "qwen3"])
def test_mending_brings_the_student_closer(name: str) -> None:
    teacher = tiny_model(name)
    student = keep_layers(teacher, [0])
    before = _distance(student, teacher)
    cuts = mend_cuts(student, teacher, [0], family_of(teacher), EXAMPLES)
    if name == "gpt2":
        assert cuts == (), "GPT-2's projection is no nn.Linear, so its cut is left as it is"
        return
    (cut,) = cuts
    assert cut.layer == 0
    assert cut.error_after < cut.error_before
    assert _distance(student, teacher) < before


def test_only_the_projection_before_the_cut_changes_and_the_teacher_stays() -> None:
    teacher = tiny_model("llama")
    untouched = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = keep_layers(teacher, [0])
    old = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    mend_cuts(student, teacher, [0], family_of(teacher), EXAMPLES)
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, old[name])}
    assert changed == {"model.layers.0.mlp.down_proj.weight"}
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in teacher.state_dict().items())


def test_without_a_cut_nothing_is_done() -> None:
    teacher = tiny_model("llama")
    student = keep_layers(teacher, [0, 1])
    assert mend_cuts(student, teacher, [0, 1], family_of(teacher), EXAMPLES) == ()


@pytest.mark.parametrize("name", ["bart", "gemma3"])
def test_an_architecture_that_normalises_after_the_projection_is_left_as_it_is(name: str) -> None:
    teacher = tiny_model(name)
    assert mend_cuts(keep_layers(teacher, [0]), teacher, [0], family_of(teacher), EXAMPLES) == ()
