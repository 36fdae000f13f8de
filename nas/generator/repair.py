"""The fewest changes that bring an architecture into a band of cost.

Costs of networks are sums over layers that depend on their outcomes
(``nas.generator.expected_costs``), so per layer and outcome it is known how many decisions must
change and what score the best such choices have (``DecisionPlane.nearest``). What is left is which
outcomes to take: with up to two changes all possibilities are looked at, which is the usual case
and takes milliseconds; more changes are an integer programme, solved by HiGHS. Both are exact: no
architecture in the band has fewer changes, and of those with as few none has a greater score
(beyond the solver's relative gap of 1e-4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from nas.generator.expected_costs import PlaneCosts
from nas.generator.planes import DecisionPlane

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BAND = 1.005
"""Upper over lower end of a band: the cost of an answer is known to half a percent."""

EDGE = 1e-5
"""How far inside of a band, as a part of the budget, an answer's load lies: HiGHS keeps constraints
to 1e-6, and sums in another order differ in their last digits."""

_LOW, _HIGH = 1 / BAND + EDGE, 1 - EDGE


@dataclass(frozen=True)
class PlaneLimit:
    """What one kind of cost may at most be, in its unit."""

    costs: PlaneCosts
    budget: float


def load_of(limits: Sequence[PlaneLimit], outcomes: Ints) -> float:
    """The largest part of its budget that a network uses up; feasible at 1 or below."""
    return max(limit.costs.of(outcomes) / limit.budget for limit in limits)


def into_band(
    plane: DecisionPlane, limits: Sequence[PlaneLimit], *, scores: Floats, chosen: Ints
) -> Ints | None:
    """Change as few decisions as possible so that the load lies in the band just below 1.

    Args:
        plane: The decisions.
        limits: One budget or more; the band is that of the one which is nearest to its limit.
        scores: Scores of choices, ``(L, G, C)``.
        chosen: Present choices, ``(L, G)``.

    Returns:
        Choices ``(L, G)``, or None where no architecture lies in the band.
    """
    rows = enumerate(zip(scores, chosen, strict=True))
    by_layer = [plane.nearest(layer, *row) for layer, row in rows]
    changes = np.array([found[0] for found in by_layer])  # (L, O)
    score = np.array([found[1] for found in by_layer])
    loss = score.max(axis=1, keepdims=True) - score
    base, addends = _loads(limits)
    outcomes = _few_changes(changes, loss, base, addends)
    if outcomes is None:
        outcomes = _any_changes(changes, loss, base, addends)
    if outcomes is None:
        return None
    assert 1 / BAND < load_of(limits, outcomes) < 1
    return np.array([found[2][o] for found, o in zip(by_layer, outcomes, strict=True)])


def least_within(limits: Sequence[PlaneLimit]) -> tuple[Ints, float]:
    """Outcomes of least cost by the first limit that keep to the others, and that cost.

    Raises:
        ValueError: None keeps to the others.
    """
    first, others = limits[0].costs, limits[1:]
    cheapest = first.cheapest()
    if not others or load_of(others, cheapest) <= 1:
        return cheapest, first.of(cheapest)
    base, addends = _loads(others)
    layers, outcomes, pieces = addends.shape
    own = len(first.base)
    # variables: one of every layer's outcomes, and the cost itself, which is the objective
    scale = first.of(cheapest)
    rows = np.zeros((layers + pieces + own, layers * outcomes + 1))
    low, high = np.full(len(rows), -np.inf), np.ones(len(rows))
    _one_each(rows, low, layers, outcomes)
    rows[layers : layers + pieces, :-1] = addends.reshape(-1, pieces).T
    high[layers : layers + pieces] = _HIGH - base
    rows[layers + pieces :, :-1] = first.addends.reshape(-1, own).T / scale
    rows[layers + pieces :, -1] = -1.0
    high[layers + pieces :] = -first.base / scale
    objective = np.append(np.zeros(layers * outcomes), 1.0)
    integral = np.append(np.ones(layers * outcomes), 0.0)
    solved = milp(
        objective,
        integrality=integral,
        bounds=Bounds(0.0, np.append(np.ones(layers * outcomes), np.inf)),
        constraints=LinearConstraint(rows, low, high),
    )
    if solved.x is None:
        raise ValueError("the budgets exclude each other")
    found: Ints = solved.x[:-1].reshape(layers, outcomes).argmax(axis=1)
    return found, first.of(found)


def _loads(limits: Sequence[PlaneLimit]) -> tuple[Floats, Floats]:
    """All sums of all limits as parts of their budgets: ``(P,)`` and ``(L, O, P)``."""
    base = np.concatenate([limit.costs.base / limit.budget for limit in limits])
    addends = np.concatenate([limit.costs.addends / limit.budget for limit in limits], axis=2)
    return base, addends


def _in_band(loads: Floats) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = (loads >= _LOW) & (loads <= _HIGH)
    return within


def _few_changes(changes: Ints, loss: Floats, base: Floats, addends: Floats) -> Ints | None:
    """The best outcomes of up to two changes in all, or None."""
    present = (changes == 0).argmax(axis=1)  # (L,)
    layers = np.arange(len(present))
    start = base + addends[layers, present].sum(axis=0)
    more = addends - addends[layers, present][:, None]
    lost = loss - loss[layers, present][:, None]
    none = np.array([[0, present[0]]])
    one, two = (np.argwhere(changes == count) for count in (1, 2))  # rows of layer, outcome
    i, j = np.triu_indices(len(one), 1)
    apart = one[i, 0] != one[j, 0]
    pairs = np.stack([one[i[apart]], one[j[apart]]], axis=1)
    for moves in (
        _after(none, none),
        _after(none, one),
        np.concatenate([_after(none, two), pairs]),
    ):
        (l1, c1), (l2, c2) = moves[:, 0].T, moves[:, 1].T
        loads = (start + more[l1, c1] + more[l2, c2]).max(axis=1)
        within = np.flatnonzero(_in_band(loads))
        if len(within):
            total = lost[l1, c1] + lost[l2, c2]
            best = moves[within[total[within].argmin()]]
            made: Ints = present.copy()
            for layer, outcome in best:
                made[layer] = outcome
            return made
    return None


def _after(none: Ints, moves: Ints) -> Ints:
    """Each move after one that moves nothing, ``(N, 2, 2)``."""
    return np.stack([np.repeat(none, len(moves), axis=0), moves], axis=1)


def _any_changes(changes: Ints, loss: Floats, base: Floats, addends: Floats) -> Ints | None:
    """The best outcomes of however many changes, or None where none lies in the band."""
    layers, outcomes, pieces = addends.shape
    # variables: one of every layer's outcomes, and one of the sums that reaches the band
    rows = np.zeros((layers + 2 * pieces + 1, layers * outcomes + pieces))
    low, high = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    _one_each(rows, low, layers, outcomes)
    high[:layers] = 1.0
    upper, lower = slice(layers, layers + pieces), slice(layers + pieces, layers + 2 * pieces)
    rows[upper, : layers * outcomes] = addends.reshape(-1, pieces).T
    high[upper] = _HIGH - base
    rows[lower, : layers * outcomes] = addends.reshape(-1, pieces).T
    least = base + addends.min(axis=1).sum(axis=0)
    np.fill_diagonal(rows[lower, layers * outcomes :], least - _LOW)  # free where not chosen
    low[lower] = least - base
    rows[-1, layers * outcomes :] = 1.0
    low[-1] = 1.0
    weight = 0.5 / max(
        float(loss.max(axis=1).sum()), 1e-12
    )  # all scores together weigh less than a change
    objective = np.append((changes + weight * loss).ravel(), np.zeros(pieces))
    solved = milp(
        objective,
        integrality=np.ones(len(objective)),
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(rows, low, high),
    )
    if solved.x is None:
        return None
    found: Ints = solved.x[: layers * outcomes].reshape(layers, outcomes).argmax(axis=1)
    return found


def _one_each(rows: Floats, low: Floats, layers: int, outcomes: int) -> None:
    """Every layer takes one of its outcomes."""
    for layer in range(layers):
        rows[layer, layer * outcomes : (layer + 1) * outcomes] = 1.0
    low[:layers] = 1.0
