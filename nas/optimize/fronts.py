"""Fronts: budgets spread over the latencies of a space, and the points that another one beats.

The budgets have equal ratios. A network of 2 ms instead of 1 ms gains about as much accuracy as one
of 4 ms instead of 2 ms, so equal differences would crowd the budgets where little changes. The
first and the last budget keep a distance from the ends of the feasible range: at the ends only the
smallest and the largest network are left, and there is nothing to search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latbench.errors import BudgetError
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import Constraint, Limit, latency_limits
from nas.optimize.encoding import EncodedSpace

_EDGE = 0.05  # part of the range, in logarithms, that is left free at both ends
_DIGITS = 3  # significant digits of a budget


@dataclass(frozen=True)
class Point:
    """A network's latency, with an interval if it is measured, and its score."""

    low_ms: float
    high_ms: float
    score: float


def spread_budgets(
    devices: Sequence[PricedSpace], count: int, limits: tuple[Limit, ...] = ()
) -> list[float]:
    """Latency budgets in ms for a front, ascending and with equal ratios.

    Args:
        devices: The space with the prices of each device; a budget holds on all of them.
        count: Number of budgets.
        limits: Limits that all networks keep in addition.

    Raises:
        BudgetError: No architecture keeps the limits.
    """
    high_ms = max(priced.feasible_ms()[1] for priced in devices)
    if len(devices) == 1 and not limits:
        low_ms = devices[0].feasible_ms()[0]
    else:
        low_ms = _least_ms(devices, limits, high_ms)
    places = np.linspace(_EDGE, 1 - _EDGE, count) if count > 1 else [0.5]
    found = [low_ms * (high_ms / low_ms) ** float(place) for place in places]
    return [min(max(_rounded(ms), low_ms), high_ms) for ms in found]


def _least_ms(devices: Sequence[PricedSpace], limits: tuple[Limit, ...], high_ms: float) -> float:
    """Least latency on the slowest device among the networks that keep the limits.

    Raises:
        BudgetError: No architecture keeps the limits.
    """
    EncodedSpace(Constraint((*latency_limits(devices, high_ms).limits, *limits)))
    low_ms = max(priced.feasible_ms()[0] for priced in devices)
    while high_ms > low_ms * 1.001:  # the least feasible budget, by bisection of the ratio
        middle_ms = math.sqrt(low_ms * high_ms)
        try:
            EncodedSpace(Constraint((*latency_limits(devices, middle_ms).limits, *limits)))
        except BudgetError:
            low_ms = middle_ms
        else:
            high_ms = middle_ms
    return high_ms


def beaten(points: Sequence[Point]) -> list[bool]:
    """Whether another point is better: at least as accurate and not slower, and one of them more.

    A measured point is beaten only if the intervals of the latencies do not overlap.
    """
    front: list[Point] = []  # whoever is beaten is beaten by one of these
    for point in sorted(points, key=lambda each: (each.high_ms, -each.score)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return [any(_beats(other, point) for other in front) for point in points]


def _beats(one: Point, other: Point) -> bool:
    not_worse = one.high_ms <= other.low_ms and one.score >= other.score
    return not_worse and (one.high_ms, one.score) != (other.low_ms, other.score)


def _rounded(latency_ms: float) -> float:
    return float(f"{latency_ms:.{_DIGITS}g}")
