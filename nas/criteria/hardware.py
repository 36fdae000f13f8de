"""Losses of a cost relative to its target, combined with the task's loss; one form per paper.

The functions work on floats and on torch scalars, so an objective is differentiable if the cost is.
Every objective is called as ``objective(task_loss, cost, target)`` and returns the total. Its
weights are keywords with the published values. Cost and target have the same unit:

    c1                    ms; the formula takes the logarithm of microseconds
    c2, eq9, absolute     any: they use only cost / target
    hinge                 ms, of targets near 15 ms
    squared               millions of MACs, of targets near 27 M (OSNASLib's)
    sgnas                 millions of MACs, of targets near 360 M (the middle of SGNAS's range)

A weight that was published for 27 million MACs has no effect on 0.5 ms. So searches call
``objective_of(name)``. If the unit matters, it scales cost and target by one factor, so that the
target equals the one for which the weight was published. A new objective is a function here, or in
an installed package, and one line in ``OBJECTIVES``; recipes choose one by its name. TF-NAS (Hu et
al., ECCV 2020) calls FBNet's form C1 and ProxylessNAS's C2, and compares both with its own Eq. 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from latbench.registry import Registry

Value = Any
"""A float, or a torch scalar."""

Objective = Callable[[Value, Value, float], Value]
"""Function from ``(task_loss, cost, target)`` to the total loss."""

OBJECTIVES: Registry[Objective] = Registry(
    "hardware loss",
    {
        name: f"nas.criteria.hardware:{name}"
        for name in ("c1", "c2", "eq9", "absolute", "hinge", "squared", "sgnas")
    },
    group="latbench.objectives",
)


REFERENCE_TARGETS = {"hinge": 15.0, "squared": 27.0, "sgnas": 360.0}
"""Targets for which the objectives' weights were published, each in the objective's unit."""


def objective_of(name: str) -> Objective:
    """The objective with this name, for costs and targets of any unit.

    Raises:
        UnknownNameError: There is no objective of this name.
    """
    objective = OBJECTIVES[name]
    reference = REFERENCE_TARGETS.get(name)
    if reference is None:
        return objective

    def scaled(task_loss: Value, cost: Value, target: float) -> Value:
        return objective(task_loss, cost / target * reference, reference)

    return scaled


def c1(
    task_loss: Value,
    cost: Value,
    target: float,
    *,
    alpha: float = 0.2,
    beta: float = 0.6,
    unit: float = 1e-3,
) -> Value:
    """FBNet's product: ``task_loss * alpha * log(cost) ** beta``; ignores the target.

    Wu et al., CVPR 2019, Eq. 2, with its constants. The paper does not state the unit of the cost.
    Here the logarithm is taken of 1000 times the cost (microseconds for a latency in ms), so it is
    positive for every network.
    """
    scaled = cost / unit
    log = scaled.log() if hasattr(scaled, "log") else math.log(scaled)
    return task_loss * alpha * log**beta


def c2(task_loss: Value, cost: Value, target: float, *, weight: float = 0.1) -> Value:
    """ProxylessNAS's sum: ``task_loss + weight * cost / target``.

    Cai et al., ICLR 2019, Eq. 8, adds the bare expected latency. Divided by the target, one
    weight serves all devices; with a constant target it is the same objective.
    """
    return task_loss + weight * cost / target


def eq9(task_loss: Value, cost: Value, target: float, *, weight: float = 0.1) -> Value:
    """TF-NAS's Eq. 9: ``task_loss + weight * max(cost / target - 1, 0)``."""
    return task_loss + weight * max(cost / target - 1, 0.0)


def absolute(task_loss: Value, cost: Value, target: float, *, weight: float = 0.1) -> Value:
    """The form in TF-NAS's code: ``task_loss + weight * |cost / target - 1|``."""
    return task_loss + weight * abs(cost / target - 1)


def hinge(task_loss: Value, cost: Value, target: float, *, weight: float = 0.1) -> Value:
    """``task_loss + weight * max(cost - target, 0)``, in the cost's unit."""
    return task_loss + weight * max(cost - target, 0.0)


def squared(
    task_loss: Value,
    cost: Value,
    target: float,
    *,
    weight: float = 3e-4,
    over: float = 1.0,
    tolerance: float = 0.0,
) -> Value:
    """``task_loss + weight * (cost - target) ** 2``, in the cost's unit.

    Args:
        task_loss: Loss of the task.
        cost: Cost, in millions of MACs for the published weight.
        target: Target of the cost.
        weight: Weight of the cost; 3e-4 in OSNASLib and SGNAS.
        over: Factor of the loss of a cost above its target.
        tolerance: Distance from the target within which there is no loss.
    """
    distance = cost - target
    if abs(distance) <= tolerance:
        return task_loss
    above = bool(distance > 0)
    return task_loss + squared_distance(
        distance, weight=weight, over=over, above=above, below=not above
    )


def sgnas(task_loss: Value, cost: Value, target: float, *, weight: float = 3e-4) -> Value:
    """SGNAS (Huang & Chu, CVPR 2021): ``squared``, times 1.2 above the target, 0 within 0.1."""
    return squared(task_loss, cost, target, weight=weight, over=1.2, tolerance=0.1)


def squared_distance(
    distance: Value, *, weight: float, over: float, above: Value, below: Value
) -> Value:
    """``weight * distance ** 2``, times ``over`` above the target.

    Args:
        distance: Cost minus target: a number, or a tensor with one element for each cost.
        weight: Weight of the squared distance.
        over: Factor above the target.
        above: Whether the cost counts as above its target: a bool, or a bool tensor of the shape of
            ``distance``. A tensor is not read, so a GPU does not wait. With a bool the factors are
            multiplied in double precision, and with a tensor in single precision.
        below: Whether the cost counts as below its target. The loss is 0 if it is neither.
    """
    return weight * (over * above + below) * distance**2
