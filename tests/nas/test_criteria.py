"""Losses: each equals its formula, or torch's own; its gradient is finite and points the way."""

from __future__ import annotations

import math

import pytest
import torch

from latbench.errors import UnknownNameError
from nas.criteria import hardware


@pytest.mark.parametrize("name", list(hardware.OBJECTIVES))
@pytest.mark.parametrize("cost", [0.4, 14.0, 15.0, 15.05, 21.0])
def test_an_objective_is_the_same_on_floats_and_tensors(name: str, cost: float) -> None:
    objective = hardware.objective(name)
    plain = objective(2.0, cost, 15.0)
    task, tensor = torch.tensor(2.0, requires_grad=True), torch.tensor(cost, requires_grad=True)
    total = objective(task, tensor, 15.0)
    total.backward()
    assert total.item() == pytest.approx(plain, rel=1e-5)
    assert task.grad is not None and task.grad > 0
    if tensor.grad is not None:
        nudged = objective(2.0, cost + 1e-6, 15.0) - objective(2.0, cost - 1e-6, 15.0)
        if cost != 15.0:  # where the forms with a kink have no derivative
            assert tensor.grad.item() == pytest.approx(nudged / 2e-6, rel=1e-3, abs=1e-6)


def test_objectives_are_their_papers_formulas() -> None:
    assert hardware.c1(2.0, 20.0, 1.0) == pytest.approx(2 * 0.2 * math.log(20_000) ** 0.6)
    assert hardware.c2(2.0, 18.0, 15.0) == pytest.approx(2 + 0.1 * 18 / 15)
    assert hardware.eq9(2.0, 18.0, 15.0) == pytest.approx(2 + 0.1 * (18 / 15 - 1))
    assert hardware.eq9(2.0, 12.0, 15.0) == 2.0
    assert hardware.absolute(2.0, 12.0, 15.0) == pytest.approx(2 + 0.1 * (1 - 12 / 15))
    assert hardware.hinge(2.0, 18.0, 15.0) == pytest.approx(2 + 0.1 * 3)
    assert hardware.hinge(2.0, 12.0, 15.0) == 2.0
    assert hardware.squared(0.0, 110.0, 100.0) == pytest.approx(3e-4 * 100)
    assert hardware.sgnas(0.0, 110.0, 100.0) == pytest.approx(3e-4 * 100 * 1.2)
    assert hardware.sgnas(0.0, 90.0, 100.0) == pytest.approx(3e-4 * 100)
    assert hardware.sgnas(0.0, 100.05, 100.0) == 0.0


def test_an_unknown_objective_is_answered_with_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="eq9"):
        hardware.objective("eq8")
