"""Architectures for budgets: a generator's raw output, and answers that keep to the budgets.

The network's own architecture misses its budget by some percent either way. An answer is brought
into a band just below the budget with the fewest changes (``nas.generator.repair``). So that
answers rise with their budgets, over one call and from call to call, bands are rungs of a ladder
that depends on the space and its costs alone: rung k ends at ``least cost * BAND ** k``. A budget
is answered from the rung that ends at or just below it, and the network is asked for that rung's
end; where no architecture lies on a rung, the one below answers. An answer is then never above its
budget and, in spaces of many layers and but for the ends of their reach, within one percent of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from latbench.errors import BudgetError
from nas.generator.expected_costs import UNITS, PlaneCosts
from nas.generator.generator import Generator, Request
from nas.generator.planes import plane_of
from nas.generator.repair import BAND, EDGE, PlaneLimit, into_band, least_within
from nas.spaces import Architecture, SearchSpace

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """An architecture for a request.

    Attributes:
        changes: Number of decisions that differ from the network's own; None for the architecture
            of least cost, for which the network is not asked.
    """

    architecture: Architecture
    changes: int | None


def raw_answers(
    generator: Generator, space: SearchSpace, requests: Sequence[Request]
) -> list[Answer]:
    """Raw generator output, without the repair that enforces budgets; one forward pass.

    Raises:
        LatbenchError: As ``Generator.forward``.
    """
    plane = plane_of(space)
    with torch.no_grad():
        choices = plane.decode(generator(requests)).cpu().numpy()
    return [Answer(plane.chosen(rows), 0) for rows in choices]


def answers(generator: Generator, space: SearchSpace, requests: Sequence[Request]) -> list[Answer]:
    """Architectures that keep to their budgets, in the order asked.

    Raises:
        BudgetError: A budget is out of the space's reach; carries the nearest feasible one.
        LatbenchError: As ``Generator.forward``.
    """
    plane = plane_of(space)
    floors = [least_outcomes(request) for request in requests]
    rungs = [[_rung(limit) for limit in request.limits] for request in requests]
    found: list[Answer | None] = [None] * len(requests)
    waiting = list(range(len(requests)))
    down = 0
    while waiting:
        asked: dict[int, Request] = {}
        for i in waiting:
            steps = [rung - down for rung in rungs[i]]
            if min(steps) < 1:
                found[i] = Answer(plane.architecture(floors[i]), None)
            else:
                asked[i] = _at(requests[i], steps)
        if asked:
            with torch.no_grad():
                logits = plane.masked(generator(list(asked.values()))).cpu()
            choices = logits.argmax(-1).numpy()
            scores = logits.double().log_softmax(-1).numpy()
            for (i, request), row, chosen in zip(asked.items(), scores, choices, strict=True):
                made = into_band(plane, request.limits, scores=row, chosen=chosen)
                if made is not None:
                    found[i] = Answer(plane.chosen(made), int((made != chosen).sum()))
        waiting = [i for i in waiting if found[i] is None]
        down += 1
    return [answer for answer in found if answer is not None]


def least_outcomes(request: Request) -> Ints:
    """Outcomes of least cost within the budgets.

    Raises:
        BudgetError: There are none, or a budget is above all that the space costs.
    """
    for limit in request.limits:
        low, high = limit.costs.reach
        if not low <= limit.budget <= high:
            raise _out_of_reach(limit, low, high)
    first = request.limits[0]
    try:
        outcomes, least = least_within(request.limits)
    except ValueError:
        outcomes, least = first.costs.cheapest(), math.inf
    if least > first.budget:
        others = " and ".join(_said(limit.costs, limit.budget) for limit in request.limits[1:])
        known = math.isfinite(least)
        nearest = f"the nearest feasible budget is {_said(first.costs, least * (1 + EDGE))}"
        raise _refusal(
            f"no architecture keeps to {_said(first.costs, first.budget)} and {others}: "
            + (nearest if known else "raise one of them"),
            first.costs,
            least if known else None,
        )
    return outcomes


def _out_of_reach(limit: PlaneLimit, low: float, high: float) -> BudgetError:
    costs = limit.costs
    nearest, inwards = (low, 1 + EDGE) if limit.budget < low else (high, 1 - EDGE)
    return _refusal(
        f"{_said(costs, limit.budget)} is out of reach: architectures of this space have "
        f"{_said(costs, low)} to {_said(costs, high)}; the nearest feasible budget is "
        f"{_said(costs, nearest * inwards)}",
        costs,
        nearest,
    )


def _refusal(message: str, costs: PlaneCosts, nearest: float | None) -> BudgetError:
    return BudgetError(
        message,
        nearest_ms=nearest if costs.kind == "latency" else None,
        nearest_macs_m=nearest if costs.kind == "macs" else None,
        nearest_params_m=nearest if costs.kind == "params" else None,
    )


def _said(costs: PlaneCosts, amount: float) -> str:
    return f"{amount:.6g} {UNITS[costs.kind]}"


def _rung(limit: PlaneLimit) -> int:
    """The highest rung that ends at or below a budget."""
    low, _ = limit.costs.reach
    rung = math.ceil(math.log(limit.budget / low) / math.log(BAND)) + 1
    while _end(low, rung) > limit.budget and rung > 0:
        rung -= 1
    return rung


def _end(low: float, rung: int) -> float:
    return float(low * BAND**rung)


def _at(request: Request, rungs: Sequence[int]) -> Request:
    """The request with its budgets at the ends of rungs."""
    limits = tuple(
        PlaneLimit(limit.costs, _end(limit.costs.reach[0], rung))
        for limit, rung in zip(request.limits, rungs, strict=True)
    )
    return Request(limits, request.device)
