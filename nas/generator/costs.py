"""Quantities of networks of unified blocks (``nas.constraints``), looked up by count vectors.

A layer of these spaces has 83 distinct blocks, so all that a network can have of a latency, of
MACs or of parameters is a table, and its expectation a product with probabilities. Glossary:

    P, L     sums of which the largest counts, layers
    base     what a network costs besides its layers, ``(P,)``
    addends  what layer l adds as count vector c, ``(L, 83, P)``
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latbench.errors import MismatchError
from nas.constraints import Count, Floats, Latency, Quantity
from nas.generator.counts import count_probabilities
from nas.priced import PricedSpace
from nas.spaces import Choice, Layer, SearchSpace
from nas.spaces.sgnas import COUNT_VECTORS, OP, MixLayer

Ints = NDArray[np.int64]
Kind = Literal["latency", "macs", "params"]

UNITS: dict[Kind, str] = {"latency": "ms", "macs": "M conv MACs", "params": "M parameters"}


@dataclass(frozen=True)
class MixCosts:
    """One kind of cost of all networks of a space, in the units of ``UNITS``.

    Attributes:
        base: ``(P,)``.
        addends: ``(L, 83, P)``.
    """

    kind: Kind
    base: Floats
    addends: Floats

    def of(self, counts: Ints) -> float:
        """Cost of the network of these count vectors, ``(L,)`` places in ``COUNT_VECTORS``."""
        chosen = self.addends[np.arange(len(counts)), counts]
        return float((self.base + chosen.sum(axis=0)).max())

    def expected(self, probabilities: Tensor) -> Tensor:
        """Expected cost where every sub-block chooses independently.

        The expectation of each sum is exact, and the largest of them is returned: the exact
        expectation where one sum is the largest for all networks in question, else a lower
        bound of it (Jensen).

        Args:
            probabilities: Of choices, ``(..., L, B, 4)``.

        Returns:
            ``(...)``, differentiable.
        """
        return self.expected_by_counts(count_probabilities(probabilities))

    def expected_by_counts(self, mass: Tensor) -> Tensor:
        """Expected cost from the probabilities of count vectors, ``(..., L, 83)``."""
        addends = torch.from_numpy(self.addends).to(mass)
        sums = torch.einsum("...lc,lcp->...p", mass, addends)
        return (sums + torch.from_numpy(self.base).to(mass)).amax(-1)

    def cheapest(self) -> Ints:
        """Count vectors of the network of least cost."""
        return self._extreme(1.0)

    def costliest(self) -> Ints:
        """Count vectors of the network of greatest cost."""
        return self._extreme(-1.0)

    def _extreme(self, sign: float) -> Ints:
        """What is extreme in one of the sums is, of these, extreme in all."""
        found = (sign * self.addends).argmin(axis=1)  # (L, P)
        costs = [sign * self.of(found[:, piece]) for piece in range(found.shape[1])]
        result: Ints = found[:, int(np.argmin(costs))]
        return result

    @cached_property
    def reach(self) -> tuple[float, float]:
        """Least and greatest cost of the space."""
        return self.of(self.cheapest()), self.of(self.costliest())

    def place(self, amount: float) -> float:
        """Where an amount lies in the reach, 0 to 1 of it."""
        low, high = self.reach
        return (amount - low) / (high - low)


def latency_costs(priced: PricedSpace) -> MixCosts:
    """Latencies of a space by its table, in ms.

    Raises:
        MismatchError: The space has other blocks, or the table leaves one without a price.
    """
    return _tabulated("latency", Latency(priced), 1.0)


def count_costs(space: SearchSpace, kind: Literal["macs", "params"]) -> MixCosts:
    """Convolutions' multiply-accumulates of a space, or its parameters, in millions.

    Raises:
        MismatchError: The space has other blocks than unified ones.
    """
    return _tabulated(kind, Count(space, "conv_macs" if kind == "macs" else "params"), 1e6)


def _tabulated(kind: Kind, quantity: Quantity, unit: float) -> MixCosts:
    """A quantity in multiples of a unit; equal layers are asked once."""
    known: dict[Layer, Floats] = {}
    for layer in quantity.space.layers:
        if not isinstance(layer, MixLayer):
            raise MismatchError(
                f"a generator answers for spaces of unified blocks, which {quantity.space.name} "
                "is not: choose sgnas or sgnas-proxyless"
            )
        if layer not in known:
            choices = (Choice(OP, kernels=counts) for counts in COUNT_VECTORS)
            known[layer] = np.array([quantity.addend(layer, choice) for choice in choices])
    addends = np.array([known[layer] for layer in quantity.space.layers])
    return MixCosts(kind, quantity.base / unit, addends / unit)
