"""Architectures for budgets: what a generator says, and what is handed out.

What the network says misses its budget by some percent either way. An answer is brought into a
band just below the budget with the fewest changes (``nas.generator.repair``). So that answers rise
with their budgets, over one call and from call to call, bands are rungs of a ladder that depends
on the space and its costs alone: rung k ends at ``least cost * BAND ** k``. A budget is answered
from the rung that ends at or just below it, and the network is asked for that rung's end; where no
architecture lies on a rung, the one below answers. An answer is then never above its budget and,
but for the ends of the space's reach, within one percent of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from latbench.errors import BudgetError
from nas.generator.costs import UNITS, MixCosts
from nas.generator.generator import Generator, Request
from nas.generator.network import decode, without_empty_layers
from nas.generator.repair import BAND, EDGE, MixLimit, into_band, least_within
from nas.spaces import Architecture, SearchSpace
from nas.spaces.sgnas import COUNT_VECTORS, architecture_of, of_kernels

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """An architecture for a request.

    Attributes:
        changes: Sub-blocks that differ from what the network said; None of what is handed out
            although the network was not asked, the architecture of least cost.
    """

    architecture: Architecture
    changes: int | None


def raw_answers(
    generator: Generator, space: SearchSpace, requests: Sequence[Request]
) -> list[Answer]:
    """What the network says, undone by nothing; one forward pass.

    Raises:
        LatbenchError: As ``Generator.forward``.
    """
    with torch.no_grad():
        choices = decode(generator(requests)).numpy()
    return [Answer(architecture_of(space, rows.tolist()), 0) for rows in choices]


def answers(generator: Generator, space: SearchSpace, requests: Sequence[Request]) -> list[Answer]:
    """Architectures that keep to their budgets, in the order asked.

    Raises:
        BudgetError: A budget is out of the space's reach; carries the nearest feasible one.
        LatbenchError: As ``Generator.forward``.
    """
    floors = [least_counts(request) for request in requests]
    rungs = [[_rung(limit) for limit in request.limits] for request in requests]
    found: list[Answer | None] = [None] * len(requests)
    waiting = list(range(len(requests)))
    down = 0
    while waiting:
        asked: dict[int, Request] = {}
        for i in waiting:
            steps = [rung - down for rung in rungs[i]]
            if min(steps) < 1:
                found[i] = Answer(_from_counts(space, floors[i]), None)
            else:
                asked[i] = _at(requests[i], steps)
        if asked:
            with torch.no_grad():
                logits = without_empty_layers(generator(list(asked.values())))
            choices = decode(logits).numpy()
            scores = logits.double().log_softmax(-1).numpy()
            for (i, request), row, chosen in zip(asked.items(), scores, choices, strict=True):
                made = into_band(row, chosen, request.limits)
                if made is not None:
                    found[i] = Answer(
                        architecture_of(space, made.tolist()), int((made != chosen).sum())
                    )
        waiting = [i for i in waiting if found[i] is None]
        down += 1
    return [answer for answer in found if answer is not None]


def least_counts(request: Request) -> Ints:
    """Count vectors of least cost within the budgets.

    Raises:
        BudgetError: There are none, or a budget is above all that the space costs.
    """
    for limit in request.limits:
        low, high = limit.costs.reach
        if not low <= limit.budget <= high:
            raise _out_of_reach(limit, low, high)
    first = request.limits[0]
    try:
        counts, least = least_within(request.limits)
    except ValueError:
        counts, least = first.costs.cheapest(), math.inf
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
    return counts


def _from_counts(space: SearchSpace, counts: Ints) -> Architecture:
    return of_kernels(space, (COUNT_VECTORS[count] for count in counts))


def _out_of_reach(limit: MixLimit, low: float, high: float) -> BudgetError:
    costs = limit.costs
    nearest, inwards = (low, 1 + EDGE) if limit.budget < low else (high, 1 - EDGE)
    return _refusal(
        f"{_said(costs, limit.budget)} is out of reach: architectures of this space have "
        f"{_said(costs, low)} to {_said(costs, high)}; the nearest feasible budget is "
        f"{_said(costs, nearest * inwards)}",
        costs,
        nearest,
    )


def _refusal(message: str, costs: MixCosts, nearest: float | None) -> BudgetError:
    return BudgetError(
        message,
        nearest_ms=nearest if costs.kind == "latency" else None,
        nearest_macs_m=nearest if costs.kind == "macs" else None,
        nearest_params_m=nearest if costs.kind == "params" else None,
    )


def _said(costs: MixCosts, amount: float) -> str:
    return f"{amount:.6g} {UNITS[costs.kind]}"


def _rung(limit: MixLimit) -> int:
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
        MixLimit(limit.costs, _end(limit.costs.reach[0], rung))
        for limit, rung in zip(request.limits, rungs, strict=True)
    )
    return Request(limits, request.device)
