"""The fewest changes that bring an architecture into a band of cost.

Costs of networks are sums over layers that depend on count vectors (``nas.generator.costs``), so
per layer and count vector it is known how many sub-blocks must change and what score the best such
choices have (``nas.generator.counts.nearest_choices``). What is left is which count vectors to
take: with up to two changes all possibilities are looked at, which is the usual case and takes
milliseconds; more changes are an integer programme, solved by HiGHS. Both are exact: no
architecture in the band has fewer changes, and of those with as few none has a greater score
(beyond the solver's relative gap of 1e-4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from nas.generator.costs import MixCosts
from nas.generator.counts import nearest_choices

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BAND = 1.005
"""Upper over lower end of a band: the cost of an answer is known to half a percent."""

EDGE = 1e-5
"""How far inside of a band, as a part of the budget, an answer's load lies: HiGHS keeps constraints
to 1e-6, and sums in another order differ in their last digits."""

_LOW, _HIGH = 1 / BAND + EDGE, 1 - EDGE


@dataclass(frozen=True)
class MixLimit:
    """What one kind of cost of unified blocks may at most be, in its unit."""

    costs: MixCosts
    budget: float


def load_of(limits: Sequence[MixLimit], counts: Ints) -> float:
    """The largest part of its budget that a network uses up; feasible at 1 or below."""
    return max(limit.costs.of(counts) / limit.budget for limit in limits)


def into_band(scores: Floats, chosen: Ints, limits: Sequence[MixLimit]) -> Ints | None:
    """Change as few sub-blocks as possible so that the load lies in the band just below 1.

    Args:
        scores: Of choices, ``(L, B, 4)``.
        chosen: Present choices, ``(L, B)``.
        limits: One budget or more; the band is that of the one which is nearest to its limit.

    Returns:
        Choices ``(L, B)``, or None where no architecture lies in the band.
    """
    by_layer = [nearest_choices(*row) for row in zip(scores, chosen, strict=True)]
    changes = np.array([found[0] for found in by_layer])  # (L, 83)
    score = np.array([found[1] for found in by_layer])
    loss = score.max(axis=1, keepdims=True) - score
    base, addends = _loads(limits)
    counts = _few_changes(changes, loss, base, addends)
    if counts is None:
        counts = _any_changes(changes, loss, base, addends)
    if counts is None:
        return None
    assert 1 / BAND < load_of(limits, counts) < 1
    return np.array([found[2][c] for found, c in zip(by_layer, counts, strict=True)])


def least_within(limits: Sequence[MixLimit]) -> tuple[Ints, float]:
    """Count vectors of least cost by the first limit that keep to the others, and that cost.

    Raises:
        ValueError: None keeps to the others.
    """
    first, others = limits[0].costs, limits[1:]
    cheapest = first.cheapest()
    if not others or load_of(others, cheapest) <= 1:
        return cheapest, first.of(cheapest)
    base, addends = _loads(others)
    layers, vectors, pieces = addends.shape
    own = len(first.base)
    # variables: one of every layer's count vectors, and the cost itself, which is the objective
    scale = first.of(cheapest)
    rows = np.zeros((layers + pieces + own, layers * vectors + 1))
    low, high = np.full(len(rows), -np.inf), np.ones(len(rows))
    _one_each(rows, low, layers, vectors)
    rows[layers : layers + pieces, :-1] = addends.reshape(-1, pieces).T
    high[layers : layers + pieces] = _HIGH - base
    rows[layers + pieces :, :-1] = first.addends.reshape(-1, own).T / scale
    rows[layers + pieces :, -1] = -1.0
    high[layers + pieces :] = -first.base / scale
    objective = np.append(np.zeros(layers * vectors), 1.0)
    integral = np.append(np.ones(layers * vectors), 0.0)
    solved = milp(
        objective,
        integrality=integral,
        bounds=Bounds(0.0, np.append(np.ones(layers * vectors), np.inf)),
        constraints=LinearConstraint(rows, low, high),
    )
    if solved.x is None:
        raise ValueError("the budgets exclude each other")
    counts: Ints = solved.x[:-1].reshape(layers, vectors).argmax(axis=1)
    return counts, first.of(counts)


def _loads(limits: Sequence[MixLimit]) -> tuple[Floats, Floats]:
    """All sums of all limits as parts of their budgets: ``(P,)`` and ``(L, 83, P)``."""
    base = np.concatenate([limit.costs.base / limit.budget for limit in limits])
    addends = np.concatenate([limit.costs.addends / limit.budget for limit in limits], axis=2)
    return base, addends


def _in_band(loads: Floats) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = (loads >= _LOW) & (loads <= _HIGH)
    return within


def _few_changes(changes: Ints, loss: Floats, base: Floats, addends: Floats) -> Ints | None:
    """The best count vectors of up to two changes in all, or None."""
    present = (changes == 0).argmax(axis=1)  # (L,)
    layers = np.arange(len(present))
    start = base + addends[layers, present].sum(axis=0)
    more = addends - addends[layers, present][:, None]
    lost = loss - loss[layers, present][:, None]
    none = np.array([[0, present[0]]])
    one, two = (np.argwhere(changes == count) for count in (1, 2))  # rows of layer, count vector
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
            counts: Ints = present.copy()
            for layer, count in best:
                counts[layer] = count
            return counts
    return None


def _after(none: Ints, moves: Ints) -> Ints:
    """Each move after one that moves nothing, ``(N, 2, 2)``."""
    return np.stack([np.repeat(none, len(moves), axis=0), moves], axis=1)


def _any_changes(changes: Ints, loss: Floats, base: Floats, addends: Floats) -> Ints | None:
    """The best count vectors of however many changes, or None where none lies in the band."""
    layers, vectors, pieces = addends.shape
    # variables: one of every layer's count vectors, and one of the sums that reaches the band
    rows = np.zeros((layers + 2 * pieces + 1, layers * vectors + pieces))
    low, high = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    _one_each(rows, low, layers, vectors)
    high[:layers] = 1.0
    upper, lower = slice(layers, layers + pieces), slice(layers + pieces, layers + 2 * pieces)
    rows[upper, : layers * vectors] = addends.reshape(-1, pieces).T
    high[upper] = _HIGH - base
    rows[lower, : layers * vectors] = addends.reshape(-1, pieces).T
    least = base + addends.min(axis=1).sum(axis=0)
    np.fill_diagonal(rows[lower, layers * vectors :], least - _LOW)  # free where not chosen
    low[lower] = least - base
    rows[-1, layers * vectors :] = 1.0
    low[-1] = 1.0
    weight = 0.5 / max(float(loss.max(axis=1).sum()), 1e-12)  # of all scores: less than a change
    objective = np.append((changes + weight * loss).ravel(), np.zeros(pieces))
    solved = milp(
        objective,
        integrality=np.ones(len(objective)),
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(rows, low, high),
    )
    if solved.x is None:
        return None
    counts: Ints = solved.x[: layers * vectors].reshape(layers, vectors).argmax(axis=1)
    return counts


def _one_each(rows: Floats, low: Floats, layers: int, vectors: int) -> None:
    """Every layer takes one of its count vectors."""
    for layer in range(layers):
        rows[layer, layer * vectors : (layer + 1) * vectors] = 1.0
    low[:layers] = 1.0
