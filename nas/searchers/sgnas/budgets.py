"""The budgets that an architecture generator is trained on.

Each epoch has requests for a latency on every device, for MACs, for parameters, and for a latency
together with MACs. Each kind of budget is spread evenly over the trained range with some jitter, in
random order. Without a device the requests are for MACs, for parameters, and for both together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latbench.errors import InvalidValueError, MismatchError
from nas.generator import (
    DecisionPlane,
    PlaneCosts,
    PlaneLimit,
    Request,
    count_costs,
    device_of,
    latency_costs,
    plane_of,
)
from nas.latency.priced_space import PricedSpace
from nas.spaces import SearchSpace

Ints = NDArray[np.int64]

RANGE = 180.0
"""Length of every trained range in the hardware loss. The published range is 180 million MACs, and
the constants of the loss are made for it; ranges in other units are scaled to it."""


@dataclass(frozen=True)
class Budgets:
    """All kinds of cost, and the trained range of their budgets.

    Attributes:
        plane: Decision plane of the space.
        latencies: Latencies of each device.
        counts: MACs and parameters.
        low: Lower end of the trained range, as a fraction of the feasible range.
        high: Upper end of the trained range, as a fraction of the feasible range.

    Raises:
        InvalidValueError: The trained range is empty.
    """

    plane: DecisionPlane
    latencies: dict[str, PlaneCosts]
    counts: tuple[PlaneCosts, ...]
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise InvalidValueError(
                f"no budget is between low={self.low} and high={self.high}, the fractions of the "
                "feasible range that a generator is trained on: choose a higher high or a lower low"
            )

    @classmethod
    def of(
        cls, space: SearchSpace, devices: Sequence[PricedSpace], *, low: float, high: float
    ) -> Budgets:
        """Budgets of latencies on the devices of tables, of MACs and of parameters.

        Raises:
            MismatchError: The space has no decision plane, a table lacks a price, or two tables
                belong to one device.
            InvalidValueError: The trained range is empty.
        """
        latencies: dict[str, PlaneCosts] = {}
        for each in devices:
            device = device_of(each.table)
            if device in latencies:
                raise MismatchError(
                    f"two tables are of {device}, and a generator knows a device by its name: "
                    "give one table a device"
                )
            latencies[device] = latency_costs(each)
        return cls(
            plane_of(space),
            latencies,
            (count_costs(space, "macs"), count_costs(space, "params")),
            low,
            high,
        )

    def only(self, device: str) -> Budgets:
        """Budgets of latencies on one device only."""
        latencies = {device: self.latencies[device]}
        return Budgets(self.plane, latencies, (), self.low, self.high)

    def limit(self, costs: PlaneCosts, place: float) -> PlaneLimit:
        """The budget at a fraction of the feasible range."""
        low, high = costs.feasible_range
        return PlaneLimit(costs, low * (1 - place) + high * place)  # exact at both ends

    def place(self, outcomes: Ints) -> float:
        """Mean position of a network in the feasible ranges of all costs."""
        every = (*self.latencies.values(), *self.counts)
        return sum(costs.place(costs.of(outcomes)) for costs in every) / len(every)

    def selected(self, count: int) -> list[Request]:
        """Requests spread evenly over the trained range, for each device in turn.

        Without a device they are for MACs and for parameters in turn.
        """
        rows = self.grid(count)[: len(self.latencies) or len(self.counts)]
        return [rows[i % len(rows)][i] for i in range(count)]

    def grid(self, count: int) -> list[list[Request]]:
        """Requests spread evenly over the trained range, one row for each kind of cost."""
        places = torch.linspace(self.low, self.high, count).tolist()
        kinds: list[tuple[PlaneCosts, str | None]]
        kinds = [(costs, device) for device, costs in self.latencies.items()]
        kinds += [(costs, None) for costs in self.counts]
        return [
            [Request((self.limit(costs, place),), device) for place in places]
            for costs, device in kinds
        ]

    def epoch(self, count: int, jitter: float, rng: torch.Generator) -> Iterator[Request]:
        """Endless requests: every round has ``count`` budgets of each kind.

        Args:
            count: Number of budgets of each kind in a round.
            jitter: Largest distance from the budget grid, in steps of the grid.
            rng: Draws order, jitter and pairs.
        """
        step = (self.high - self.low) / max(1, count - 1)
        devices = list(self.latencies)
        kinds: list[tuple[PlaneCosts, ...]] = [(self.latencies[d],) for d in devices]
        names: list[str | None] = list(devices)
        for costs in self.counts:
            kinds.append((costs,))
            names.append(None)
        if devices and self.counts:
            kinds.append((self.latencies[devices[0]], self.counts[0]))
            names.append(devices[0])
        elif self.counts:
            kinds.append(self.counts)
            names.append(None)
        while True:
            order = torch.randperm(len(kinds) * count, generator=rng)
            for number in order.tolist():
                kind, index = divmod(number, count)
                limits = []
                for place, costs in enumerate(kinds[kind]):
                    at = index if place == 0 else _draw(count, rng)
                    off = jitter * step * float(2 * torch.rand((), generator=rng) - 1)
                    limits.append(self.limit(costs, self.low + at * step + off))
                yield Request(tuple(limits), names[kind])

    def excess(self, request: Request, probabilities: Tensor) -> Tensor:
        """Excess of expected costs over their budgets, in fractions of the range times ``RANGE``.

        With several budgets it is the largest excess; negative if all budgets are kept.

        Args:
            request: The budgets.
            probabilities: Probabilities of choices, ``(L, G, C)``.
        """
        mass = self.plane.probabilities(probabilities)
        over = []
        for limit in request.limits:
            low, high = limit.costs.feasible_range
            span = (self.high - self.low) * (high - low)
            expected = limit.costs.expected(mass)
            over.append((expected - limit.budget) / span * RANGE)
        return torch.stack(over).amax()


def _draw(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=rng))
