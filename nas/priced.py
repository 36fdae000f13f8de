"""A search space seen through a latency table: what each choice costs.

The one place where architectures meet prices. Everything that draws, fits or searches under a
budget asks here which widths are priced and what a choice adds to a network's latency.

A network's latency is the largest of a few sums over its blocks (``PriceModel.pieces``), so each
choice has one addend for every piece; see ``latbench.tables.pricing``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec
from latbench.cost import BYTES_PER_FLOAT, block_cost
from latbench.errors import MismatchError
from latbench.tables import LatencyTable, SpaceLabel
from nas.spaces import Architecture, Choice, Layer, SearchSpace

Floats = NDArray[np.float64]


def space_label(space: SearchSpace) -> SpaceLabel:
    """How a table calls this space."""
    return SpaceLabel(space.name, space.input_size, space.classes)


class PricedSpace:
    """A space whose blocks a table prices.

    Args:
        space: The space.
        table: Its latency table.
        efficient: Leave out widths that a wider one beats in latency.

    Raises:
        MismatchError: The table is of another space, or leaves an operation without a price.
    """

    def __init__(self, space: SearchSpace, table: LatencyTable, *, efficient: bool = False) -> None:
        table.require_space(space_label(space))
        self.space = space
        self.table = table
        choose = self._efficient_widths if efficient else self._priced_widths
        self._choose_widths = choose
        self._widths: dict[tuple[Layer, str], tuple[int, ...]] = {}
        self._extremes: dict[tuple[Layer, str], tuple[Floats, Floats]] = {}

    def widths(self, layer: Layer, op: str) -> tuple[int, ...]:
        """The widths that an operation at a layer may be given, in ascending order."""
        if (layer, op) not in self._widths:
            self._widths[layer, op] = self._choose_widths(layer, op)
        return self._widths[layer, op]

    def _priced_widths(self, layer: Layer, op: str) -> tuple[int, ...]:
        """The widths of an operation at a layer that have a price, in ascending order."""
        found = tuple(w for w in layer.widths(op) if layer.block(Choice(op, w)) in self.table)
        if not found:
            raise MismatchError(f"{self.table.path} prices no width of {op} in {layer}")
        return found

    def _efficient_widths(self, layer: Layer, op: str) -> tuple[int, ...]:
        """The priced widths that no wider one beats in latency beyond its interval."""
        found: list[int] = []
        least_high_ms = float("inf")  # upper end of the fastest wider width
        for width in reversed(self._priced_widths(layer, op)):
            low_ms, high_ms = self.table.price_interval_ms(layer.block(Choice(op, width)))
            if low_ms <= least_high_ms:
                found.append(width)
            least_high_ms = min(least_high_ms, high_ms)
        return tuple(reversed(found))

    def latency_ms(self, architecture: Architecture) -> float:
        """Predicted latency of an architecture."""
        return self.table.predict(self.space.lower(architecture)).latency_ms

    @cached_property
    def _slopes(self) -> Floats:
        """ms a weight byte, by piece."""
        return np.array([slope for slope, _ in self.table.price_model.pieces()])

    @cached_property
    def base_ms(self) -> Floats:
        """What a network takes besides its choices: stem, tail and constant, ``(pieces,)``."""
        constants = np.array([constant for _, constant in self.table.price_model.pieces()])
        fixed = sum(self._addend(spec) for spec in (*self.space.stem, *self.space.tail))
        result: Floats = constants + fixed
        return result

    def addend_ms(self, layer: Layer, choice: Choice) -> Floats:
        """What a choice adds, ``(pieces,)``: latency is the largest piece of the sum."""
        return self._addend(layer.block(choice))

    def _addend(self, spec: BlockSpec) -> Floats:
        weight_bytes = block_cost(spec).params * BYTES_PER_FLOAT
        result: Floats = self.table.price_ms(spec) + self._slopes * weight_bytes
        return result

    def range_ms(self, layers: Iterable[Iterable[tuple[Layer, str]]]) -> tuple[float, float]:
        """Least and greatest latency over widths, one operation chosen from each layer's.

        Args:
            layers: For every layer in the network, the pairs of layer and operation to choose
                from.
        """
        low = np.tile(self.base_ms, (len(self.base_ms), 1))  # (least in this piece, pieces)
        high = low.copy()
        for options in layers:
            narrow, wide = zip(*(self._ends(layer, op) for layer, op in options), strict=True)
            for piece in range(len(self.base_ms)):
                low[piece] += min((ends[piece] for ends in narrow), key=lambda e: e[piece])
                high[piece] += max((ends[piece] for ends in wide), key=lambda e: e[piece])
        return float(low.max(axis=1).min()), float(high.max(axis=1).max())

    def _ends(self, layer: Layer, op: str) -> tuple[Floats, Floats]:
        """Addends of the widths that are least and greatest in each piece, ``(piece, pieces)``."""
        if (layer, op) not in self._extremes:
            widths = self.widths(layer, op)
            addends = np.array([self.addend_ms(layer, Choice(op, width)) for width in widths])
            self._extremes[layer, op] = addends[addends.argmin(0)], addends[addends.argmax(0)]
        return self._extremes[layer, op]

    def reachable_ms(self) -> tuple[float, float]:
        """Least and greatest latency of the whole space: shallowest and deepest stages."""
        shallow = [[(ls[0], op) for op in ls[0].ops] for ls in self.space.stages]
        deep = [[(layer, op) for op in layer.ops] for layer in self.space.layers]
        return self.range_ms(shallow)[0], self.range_ms(deep)[1]
