"""From relaxed choices to one architecture under a hard budget.

The most probable architecture may not be able to meet the target at any widths. It may be too slow
at its narrowest widths, or so fast at its widest ones that it leaves some of the budget unused. So
the search looks at the operations and depths whose range of latencies over all widths includes the
target. It finds the most probable of them exactly (``nas.optimize.exact_solver``), and scales their
widths to just below the target.

``nas.searchers.scored_choices`` has the choices, their scores and their latencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.latency.aimed_proposals import Propose, Range
from nas.latency.feasible_range import check_feasible
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Places, Widths
from nas.latency.width_scaling import Fit, fit_exact
from nas.searchers.scored_choices import ROUNDING, LogProbabilities, ScoredChoices
from nas.spaces import Architecture, Choice, SearchSpace

CLOSE_ENOUGH = 0.005  # relative gap below the target at which the search ends
_ROOMS = (
    0.0,
    0.01,
    0.03,
)  # margins beyond the target: near the ends of a range few widths are left
_MARGIN = 0.05  # assumed relative error of a table that states none
_BISECTIONS = 10  # bisection steps towards the greatest feasible latency below an infeasible target


@dataclass(frozen=True)
class Derived(Fit):
    """An architecture under a target, and the layers of the space that it uses."""

    places: Places


def derive(
    priced: PricedSpace,
    log: LogProbabilities,
    *,
    widths: Widths,
    target_ms: float,
    elastic: bool = True,
) -> Derived:
    """The most probable architecture that widths can bring to just below the target.

    If the widths of no operations and depths reach the target, those that come closest from below
    are taken.

    Args:
        priced: The space and its prices.
        log: Log probabilities of all choices.
        widths: Present width of every operation.
        target_ms: Latency that is never exceeded.
        elastic: Whether widths may change. Otherwise the result is the most probable architecture
            below the target at the present widths.

    Raises:
        BudgetError: No architecture meets the target.
    """
    check_feasible(target_ms, *priced.feasible_ms(), what=f"space {priced.space.name}")
    if not elastic:
        return _derive_rigid(priced, log, widths, target_ms)
    return _derive_elastic(ScoredChoices.of_any_width(priced, log), widths, target_ms)


def proposals(
    priced: PricedSpace, log: LogProbabilities, *, widths: Widths, elastic: bool = True
) -> Propose[Derived]:
    """A function that proposes architectures to a correction.

    It proposes the most probable architecture whose widths cover the range that the correction asks
    for. If possible the widths cover a margin beyond the range, as wide as the error of the table's
    latencies. Then the correction can end by changing widths, without other operations.
    """
    if not elastic:
        return lambda aim_ms, _: derive(priced, log, widths=widths, target_ms=aim_ms, elastic=False)
    margin = priced.table.price_model.half_width() or _MARGIN
    candidates = ScoredChoices.of_any_width(priced, log)

    def propose(aim_ms: float, width_range_ms: Range) -> Derived:
        low_ms, high_ms = width_range_ms
        for beyond in (margin, 0.0):
            reach = (low_ms * (1 - beyond), high_ms * (1 + beyond))
            found = _derive_reaching(candidates, widths, aim_ms, reach)
            if found is not None:
                return found
        check_feasible(aim_ms, *priced.feasible_ms(), what=f"space {priced.space.name}")
        return _derive_elastic(candidates, widths, aim_ms)

    return propose


def most_probable(log: LogProbabilities) -> Places:
    """The operations and depths of the largest probability, without regard to latency."""
    places = []
    for s, rows in enumerate(log.ops):
        depth = int(np.argmax(log.depths[s])) + 1
        stage: list[int | None] = [None] * len(rows)
        for i, row in enumerate(rows[:depth]):
            op = int(np.argmax(row))
            stage[i] = op if row[op] >= log.skip(s, i) else None
        places.append(tuple(stage))
    return tuple(places)


def architecture_at(space: SearchSpace, places: Places, widths: Widths) -> Architecture:
    """The architecture without the layers that are left out."""
    return space.architecture(
        [
            [
                Choice(layer.ops[op], widths[s][i][layer.ops[op]])
                for i, (layer, op) in enumerate(zip(space.stages[s], stage, strict=True))
                if op is not None
            ]
            for s, stage in enumerate(places)
        ]
    )


def places_of(space: SearchSpace, architecture: Architecture) -> Places:
    """Operations of an architecture on the first layers of every stage."""
    return tuple(
        tuple(
            layers[i].ops.index(stage[i].op) if i < len(stage) else None for i in range(len(layers))
        )
        for layers, stage in zip(space.stages, architecture.stages, strict=True)
    )


def _derive_elastic(candidates: ScoredChoices, widths: Widths, target_ms: float) -> Derived:
    """The most probable architecture that widths bring to the target, or closest from below."""
    found = _derive_reaching(
        candidates, widths, target_ms, (target_ms, target_ms * (1 - CLOSE_ENOUGH))
    )
    if found is not None:
        return found
    low_ms, high_ms = candidates.priced.feasible_ms()[0], target_ms
    for _ in range(_BISECTIONS):
        middle_ms = (low_ms + high_ms) / 2
        if candidates.most_probable((target_ms, middle_ms)) is None:
            high_ms = middle_ms
        else:
            low_ms = middle_ms
    found = _derive_reaching(candidates, widths, target_ms, (target_ms, low_ms))
    assert found is not None  # the fastest architecture of the space is always found
    return found


def _derive_reaching(
    candidates: ScoredChoices, widths: Widths, target_ms: float, width_range_ms: Range
) -> Derived | None:
    """The most probable architecture whose widths span a range, scaled to a target.

    If its widths miss the target by more than ``CLOSE_ENOUGH``, the range is widened: near the ends
    of an architecture's range few widths are left. None if no architecture covers the range.
    """
    priced, best = candidates.priced, None
    low_ms, high_ms = width_range_ms
    for room in _ROOMS:
        places = candidates.most_probable((low_ms * (1 - room), high_ms * (1 + room)))
        if places is None:
            break
        start = architecture_at(priced.space, places, widths)
        fitted = fit_exact(priced, start, target_ms, clamp=True)
        if fitted.latency_ms > target_ms * (1 + ROUNDING):
            continue
        if best is None or fitted.latency_ms > best.latency_ms:
            best = Derived(**vars(fitted), places=places)
        if best.latency_ms >= target_ms * (1 - CLOSE_ENOUGH):
            break
    return best


def _derive_rigid(
    priced: PricedSpace, log: LogProbabilities, widths: Widths, target_ms: float
) -> Derived:
    """The most probable architecture below the target at the present widths.

    If there is none, it is the fastest architecture of the space at any widths.
    """
    places = ScoredChoices.of_widths(priced, log, widths).most_probable((target_ms, None))
    if places is None:
        made = priced.extremes()[0]
        places = places_of(priced.space, made)
    else:
        made = architecture_at(priced.space, places, widths)
    latency_ms = priced.latency_ms(made)
    return Derived(target_ms, latency_ms, latency_ms, latency_ms, made, places)
