"""Losses of a cost over its target, joined to the task's loss: one form a paper.

Plain arithmetic on floats and torch scalars alike, so an objective is differentiable wherever the
cost is. Every objective is called as ``objective(task_loss, cost, target)`` and returns the total;
its weights are keywords with the published values. Cost and target have one unit:

    c1                    ms; it takes the logarithm of thousandths
    c2, eq9, absolute     any: they see nothing but cost / target
    hinge                 ms, of targets near 15 ms
    squared               millions of MACs, of targets near 27 M (OSNASLib's)
    sgnas                 millions of MACs, of targets near 360 M (the middle of SGNAS's range)

A weight that was published for 27 million MACs does nothing to 0.5 ms. So searches call
``objective_of(name)``: where the unit matters it scales cost and target alike, such that the target
is the one that the weight is for. A new objective is a function here, or in an installed package,
and one line in ``OBJECTIVES``; recipes choose one by its name. TF-NAS (Hu et al., ECCV 2020) calls
FBNet's form C1 and ProxylessNAS's C2, and compares both with its own Eq. 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from latbench.registry import Registry

Value = Any
"""A float, or a torch scalar."""

Objective = Callable[[Value, Value, float], Value]
"""``(task_loss, cost, target)`` to the total."""

OBJECTIVES: Registry[Objective] = Registry(
    "hardware loss",
    {
        name: f"nas.criteria.hardware:{name}"
        for name in ("c1", "c2", "eq9", "absolute", "hinge", "squared", "sgnas")
    },
    group="latbench.objectives",
)


REFERENCE_TARGETS = {"hinge": 15.0, "squared": 27.0, "sgnas": 360.0}
"""Targets that the weights of objectives are for, each in the objective's unit."""


def objective_of(name: str) -> Objective:
    """The objective for costs and targets of any unit.

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
    """FBNet's product: ``task_loss * alpha * log(cost) ** beta``; knows no target.

    Wu et al., CVPR 2019, Eq. 2, with its constants. The paper does not say the unit of the cost.
    Here the logarithm is taken of thousandths (microseconds for a latency in ms), which keeps it
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
    """What the code of TF-NAS computes: ``task_loss + weight * |cost / target - 1|``."""
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
        task_loss: What it is added to.
        cost: In millions of MACs for the published weight.
        target: Of the cost.
        weight: 3e-4 in OSNASLib and SGNAS.
        over: Factor of a cost above its target.
        tolerance: No loss within this distance of the target.
    """
    distance = cost - target
    if abs(distance) <= tolerance:
        return task_loss
    return task_loss + weight * (over if distance > 0 else 1.0) * distance**2


def sgnas(task_loss: Value, cost: Value, target: float, *, weight: float = 3e-4) -> Value:
    """SGNAS (Huang & Chu, CVPR 2021): ``squared``, times 1.2 above the target, 0 within 0.1."""
    return squared(task_loss, cost, target, weight=weight, over=1.2, tolerance=0.1)
