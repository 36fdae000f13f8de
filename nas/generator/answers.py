"""Architectures for budgets: raw output of a generator, and answers that keep to the budgets.

The raw output misses its budget by a few percent. An answer is repaired: the fewest possible
changes bring its cost into a band just below the budget (``nas.generator.repair``). Answers must
not become cheaper when budgets rise, in one call and between calls. So the bands are fixed for a
space and its costs: band k ends at ``least cost * BAND ** k``. A budget is answered from the
highest band that ends at or below it, and the network gets the end of that band as its budget. If
the band holds no architecture, the next lower band answers. So an answer never exceeds its budget.
In spaces of many layers it is within one percent of the budget, except near the ends of the
feasible range.
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
        architecture: The architecture.
        changes: Number of decisions that differ from the raw output. None for the architecture of
            least cost, which needs no network.
    """

    architecture: Architecture
    changes: int | None


def raw_answers(
    generator: Generator, space: SearchSpace, requests: Sequence[Request]
) -> list[Answer]:
    """Raw generator output, without the repair that enforces budgets; one forward pass.

    Raises:
        LatbenchError: See ``Generator.forward``.
    """
    plane = plane_of(space)
    with torch.no_grad():
        choices = plane.decode(generator(requests)).cpu().numpy()
    return [Answer(plane.chosen(rows), 0) for rows in choices]


def answers(
    generator: Generator,
    space: SearchSpace,
    requests: Sequence[Request],
    *,
    also: tuple[PlaneLimit, ...] = (),
) -> list[Answer]:
    """Architectures that keep to their budgets, in the order of the requests.

    Args:
        generator: The generator.
        space: Space of the answers.
        requests: Budgets that the network gets.
        also: Limits that every answer keeps and the network does not know.

    Raises:
        BudgetError: A budget is outside of the feasible range. Carries the nearest feasible one.
        LatbenchError: See ``Generator.forward``.
    """
    plane = plane_of(space)
    cheapest = [least_outcomes(request, also) for request in requests]
    bands = [[_band_of(limit) for limit in request.limits] for request in requests]
    found: list[Answer | None] = [None] * len(requests)
    waiting = list(range(len(requests)))
    down = 0
    while waiting:
        asked: dict[int, Request] = {}
        for i in waiting:
            steps = [band - down for band in bands[i]]
            if min(steps) < 1:
                found[i] = Answer(plane.architecture(cheapest[i]), None)
            else:
                asked[i] = _at(requests[i], steps)
        if asked:
            with torch.no_grad():
                logits = plane.masked(generator(list(asked.values()))).cpu()
            choices = logits.argmax(-1).numpy()
            scores = logits.double().log_softmax(-1).numpy()
            for (i, request), row, chosen in zip(asked.items(), scores, choices, strict=True):
                limits = (*request.limits, *also)
                made = into_band(plane, limits, scores=row, chosen=chosen)
                if made is not None:
                    found[i] = Answer(plane.chosen(made), int((made != chosen).sum()))
        waiting = [i for i in waiting if found[i] is None]
        down += 1
    return [answer for answer in found if answer is not None]


def least_outcomes(request: Request, also: tuple[PlaneLimit, ...] = ()) -> Ints:
    """Outcomes of the cheapest network within the budgets, and within further limits.

    Raises:
        BudgetError: There is no such network, or a budget is outside of the feasible range.
    """
    for limit in request.limits:
        low, high = limit.costs.feasible_range
        if not low <= limit.budget <= high:
            raise _out_of_reach(limit, low, high)
    first = request.limits[0]
    try:
        outcomes, least = least_within((*request.limits, *also))
    except ValueError:
        outcomes, least = first.costs.cheapest(), math.inf
    if least > first.budget:
        named = [_formatted(limit.costs, limit.budget) for limit in request.limits[1:]]
        others = " and ".join([*named, *(["the peak memory"] if also else [])])
        known = math.isfinite(least)
        nearest = f"the nearest feasible budget is {_formatted(first.costs, least * (1 + EDGE))}"
        raise _refusal(
            f"no architecture keeps to {_formatted(first.costs, first.budget)} and {others}: "
            + (nearest if known else "raise one of them"),
            first.costs,
            least if known else None,
        )
    return outcomes


def _out_of_reach(limit: PlaneLimit, low: float, high: float) -> BudgetError:
    costs = limit.costs
    nearest, inwards = (low, 1 + EDGE) if limit.budget < low else (high, 1 - EDGE)
    return _refusal(
        f"{_formatted(costs, limit.budget)} is out of reach: architectures of this space have "
        f"{_formatted(costs, low)} to {_formatted(costs, high)}; the nearest feasible budget is "
        f"{_formatted(costs, nearest * inwards)}",
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


def _formatted(costs: PlaneCosts, amount: float) -> str:
    return f"{amount:.6g} {UNITS[costs.kind]}"


def _band_of(limit: PlaneLimit) -> int:
    """Index of the highest band that ends at or below a budget."""
    low, _ = limit.costs.feasible_range
    band = math.ceil(math.log(limit.budget / low) / math.log(BAND)) + 1
    while _end(low, band) > limit.budget and band > 0:
        band -= 1
    return band


def _end(low: float, band: int) -> float:
    return float(low * BAND**band)


def _at(request: Request, bands: Sequence[int]) -> Request:
    """The request with the ends of bands as its budgets."""
    limits = tuple(
        PlaneLimit(limit.costs, _end(limit.costs.feasible_range[0], band))
        for limit, band in zip(request.limits, bands, strict=True)
    )
    return Request(limits, request.device)
