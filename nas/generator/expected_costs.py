"""Costs of networks, as tables over the outcomes of a decision plane.

The quantities are those of ``nas.optimize.constraints``. A layer has few distinct blocks
(``nas.generator.planes``), so one table holds their latencies, MACs or parameters. An expected cost
is the product of this table with probabilities.

Glossary:

    P, L, O  number of sums (a cost is the largest of them), layers, outcomes of a layer
    base     cost that does not depend on the layers' outcomes, ``(P,)``
    addends  cost that layer l adds with outcome o, ``(L, O, P)``
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.generator.constants import Constant
from nas.generator.planes import plane_of
from nas.latency.extremes import Layers, cheapest, costliest
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import Count, Floats, Latency, Quantity
from nas.optimize.memory import LargeBlocks
from nas.spaces import Layer, SearchSpace

Ints = NDArray[np.int64]
Kind = Literal["latency", "macs", "params"]

UNITS: dict[str, str] = {
    "latency": "ms",
    "macs": "M conv MACs",
    "params": "M parameters",
    "memory": "blocks beyond the memory",
}


@dataclass(frozen=True)
class PlaneCosts:
    """One kind of cost of all networks of a space, in the units of ``UNITS``.

    Attributes:
        kind: Kind of the cost.
        base: Cost that does not depend on outcomes, ``(P,)``.
        addends: Cost that each outcome adds, ``(L, O, P)``.
    """

    kind: Kind | Literal["memory"]
    base: Floats
    addends: Floats

    def of(self, outcomes: Ints) -> float:
        """Cost of the network with these outcomes, ``(L,)``."""
        chosen = self.addends[np.arange(len(outcomes)), outcomes]
        return float((self.base + chosen.sum(axis=0)).max())

    def expected(self, mass: Tensor) -> Tensor:
        """Expected costs ``(...)`` for probabilities of outcomes ``(..., L, O)``."""
        return self._sums.expected_largest(mass)

    @cached_property
    def _sums(self) -> Sums:
        return Sums(self.base, self.addends)

    def cheapest(self) -> Ints:
        """Outcomes of the network of least cost, ``(L,)``."""
        return self._extremes[0]

    def costliest(self) -> Ints:
        """Outcomes of the network of greatest cost, ``(L,)``."""
        return self._extremes[1]

    @cached_property
    def _extremes(self) -> tuple[Ints, Ints]:
        network = Layers.of_fixed_depth(list(self.addends), self.base)
        return np.array(cheapest(network)), np.array(costliest(network))

    @cached_property
    def feasible_range(self) -> tuple[float, float]:
        """Least and greatest cost of the space."""
        return self.of(self.cheapest()), self.of(self.costliest())

    def place(self, amount: float) -> float:
        """Position of an amount in the feasible range: 0 at its lower end, 1 at its upper end."""
        low, high = self.feasible_range
        return (amount - low) / (high - low)


class Sums:
    """Sums over layers, computed on the device of the probabilities.

    Args:
        base: Cost that does not depend on outcomes, ``(P,)``.
        addends: Cost that each outcome adds, ``(L, O, P)``.
    """

    def __init__(self, base: Floats, addends: Floats) -> None:
        self._base = Constant(torch.from_numpy(base))
        self._addends = Constant(torch.from_numpy(addends))

    def expected_largest(self, mass: Tensor) -> Tensor:
        """Expectation of the largest sum, for independent layers.

        The expectation of each sum is exact, and the largest of these expectations is returned.
        That is the exact result if the same sum is the largest for all networks, and otherwise a
        lower bound (Jensen).

        Args:
            mass: Probabilities of outcomes, ``(..., L, O)``.

        Returns:
            Expected costs, ``(...)``, differentiable.
        """
        sums = torch.einsum("...lo,lop->...p", mass, self._addends.to(mass))
        return (sums + self._base.to(mass)).amax(-1)


def latency_costs(priced: PricedSpace) -> PlaneCosts:
    """Latencies of a space according to its table, in ms.

    Raises:
        MismatchError: The space has no decision plane, or the table does not price a block.
    """
    return _tabulated("latency", Latency(priced), 1.0)


def count_costs(space: SearchSpace, kind: Literal["macs", "params"]) -> PlaneCosts:
    """Multiply-accumulates of the convolutions of a space, or its parameters, in millions.

    Raises:
        MismatchError: The space has no decision plane.
    """
    return _tabulated(kind, Count(space, "conv_macs" if kind == "macs" else "params"), 1e6)


def memory_costs(limit: LargeBlocks) -> PlaneCosts:
    """Number of blocks that need more than a peak memory.

    Raises:
        MismatchError: The space has no decision plane.
    """
    return _tabulated("memory", limit, 1.0)


def _tabulated(kind: Kind | Literal["memory"], quantity: Quantity, unit: float) -> PlaneCosts:
    """The table of a quantity in multiples of a unit. Equal layers are computed once."""
    known: dict[Layer, Floats] = {}
    layers = quantity.space.layers
    for layer, outcomes in zip(layers, plane_of(quantity.space).outcomes, strict=True):
        if layer not in known:
            known[layer] = np.array([quantity.addend(layer, choice) for choice in outcomes])
    addends = np.array([known[layer] for layer in layers])
    return PlaneCosts(kind, quantity.base / unit, addends / unit)
