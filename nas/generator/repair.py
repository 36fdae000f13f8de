"""The fewest changes that bring an architecture into a band of cost.

The cost of a network is a sum over layers that depends on their outcomes
(``nas.generator.expected_costs``). ``DecisionPlane.nearest`` gives, for each layer and outcome, the
number of decisions that must change and the score of the best such choices. It remains to choose
the outcomes. In the usual case up to two changes suffice: all possibilities are tried, which takes
milliseconds. Otherwise HiGHS solves two integer programs, one for the number of changes and one for
the score with that number. One program for the sum of both takes about ten times as long, because
scores are small beside changes. Both ways are exact: no architecture in the band needs fewer
changes, and among those with equally few changes none has a greater score (up to the solver's
relative gap of 1e-4).
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
"""Ratio of the upper to the lower end of a band: half a percent."""

EDGE = 1e-5
"""Distance of an answer's load from the ends of its band, as a fraction of the budget. HiGHS keeps
constraints to 1e-6, and sums in another order differ in their last digits."""

_LOW, _HIGH = 1 / BAND + EDGE, 1 - EDGE


@dataclass(frozen=True)
class PlaneLimit:
    """A kind of cost and its budget, in the unit of the cost."""

    costs: PlaneCosts
    budget: float


def load_of(limits: Sequence[PlaneLimit], outcomes: Ints) -> float:
    """Load of a network: the largest ratio of a cost to its budget; feasible at 1 or below."""
    return max(limit.costs.of(outcomes) / limit.budget for limit in limits)


def into_band(
    plane: DecisionPlane, limits: Sequence[PlaneLimit], *, scores: Floats, chosen: Ints
) -> Ints | None:
    """Change as few decisions as possible to bring the load into the band just below 1.

    Args:
        plane: The decisions.
        limits: One budget or more. The largest load counts.
        scores: Scores of choices, ``(L, G, C)``.
        chosen: Present choices, ``(L, G)``.

    Returns:
        Choices ``(L, G)``, or None if the band holds no architecture.
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
    """Outcomes of the least cost of the first limit that keep the other limits, and that cost.

    Raises:
        ValueError: No network keeps the other limits.
    """
    first, others = limits[0].costs, limits[1:]
    cheapest = first.cheapest()
    if not others or load_of(others, cheapest) <= 1:
        return cheapest, first.of(cheapest)
    base, addends = _loads(others)
    layers, outcomes, pieces = addends.shape
    own = len(first.base)
    # variables: one binary for each outcome of each layer, and the cost, which is the objective
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
    """All sums of all limits as fractions of their budgets: ``(P,)`` and ``(L, O, P)``."""
    base = np.concatenate([limit.costs.base / limit.budget for limit in limits])
    addends = np.concatenate([limit.costs.addends / limit.budget for limit in limits], axis=2)
    return base, addends


def _in_band(loads: Floats) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = (loads >= _LOW) & (loads <= _HIGH)
    return within


def _few_changes(changes: Ints, loss: Floats, base: Floats, addends: Floats) -> Ints | None:
    """The best outcomes with at most two changes, or None."""
    present = (changes == 0).argmax(axis=1)  # (L,)
    layers = np.arange(len(present))
    start = base + addends[layers, present].sum(axis=0)
    more = addends - addends[layers, present][:, None]
    lost = loss - loss[layers, present][:, None]
    none = np.array([[0, present[0]]])
    one, two = (np.argwhere(changes == count) for count in (1, 2))  # rows of (layer, outcome)
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
    """Each move, preceded by one that changes nothing, ``(N, 2, 2)``."""
    return np.stack([np.repeat(none, len(moves), axis=0), moves], axis=1)


def _any_changes(changes: Ints, loss: Floats, base: Floats, addends: Floats) -> Ints | None:
    """The best outcomes with any number of changes, or None if the band is empty."""
    layers, outcomes, pieces = addends.shape
    choices = layers * outcomes
    # variables: one of every layer's outcomes, and one of the sums that reaches the band
    rows = np.zeros((layers + 2 * pieces + 2, choices + pieces))
    low, high = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    _one_each(rows, low, layers, outcomes)
    high[:layers] = 1.0
    upper, lower = slice(layers, layers + pieces), slice(layers + pieces, layers + 2 * pieces)
    rows[upper, :choices] = addends.reshape(-1, pieces).T
    high[upper] = _HIGH - base
    rows[lower, :choices] = addends.reshape(-1, pieces).T
    least = base + addends.min(axis=1).sum(axis=0)
    np.fill_diagonal(rows[lower, choices:], least - _LOW)  # not binding if not the chosen sum
    low[lower] = least - base
    rows[-2, choices:] = 1.0
    low[-2] = 1.0
    rows[-1, :choices] = changes.ravel()
    found: Ints | None = None
    for objective in (changes, loss):
        solved = milp(
            np.append(objective, np.zeros(pieces)),
            integrality=np.ones(choices + pieces),
            bounds=Bounds(0.0, 1.0),
            constraints=LinearConstraint(rows, low, high),
        )
        if solved.x is None:
            return found
        found = solved.x[:choices].reshape(layers, outcomes).argmax(axis=1)
        high[-1] = changes[np.arange(layers), found].sum()
    return found


def _one_each(rows: Floats, low: Floats, layers: int, outcomes: int) -> None:
    """Constrain every layer to one of its outcomes."""
    for layer in range(layers):
        rows[layer, layer * outcomes : (layer + 1) * outcomes] = 1.0
    low[:layers] = 1.0
