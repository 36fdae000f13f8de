"""A search space with the prices of a latency table: what each choice costs.

This is the only module that connects architectures with prices. All code that draws, fits or
searches under a budget asks it which widths have a price and what a choice adds to a latency.

A network's latency is the largest of a few sums over its blocks (``PriceModel.pieces``), so each
choice adds one number to every piece; see ``latbench.tables.price_model``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec
from latbench.errors import MismatchError
from latbench.tables import LatencyTable, SpaceLabel
from latbench.tables.efficient_widths import efficient_widths
from nas.latency.extremes import Bounds, Code, Layers, cheapest, costliest
from nas.latency.partial_solutions import ABSENT
from nas.spaces import (
    Architecture,
    Choice,
    Layer,
    SearchSpace,
    Variant,
    make_space,
)
from nas.spaces.small_blocks import within_memory

Floats = NDArray[np.float64]


def space_label(space: SearchSpace) -> SpaceLabel:
    """The description of a space that its tables store."""
    variant = space.variant
    return SpaceLabel(space.name, space.input_size, space.classes, variant.se, variant.activation)


def labelled_space(label: SpaceLabel) -> SearchSpace:
    """The search space that a table describes.

    Raises:
        LatbenchError: This installation does not know the space.
    """
    variant = Variant(label.se, label.activation)
    return make_space(label.name, label.input_size, label.classes, variant)


class PricedSpace:
    """A space whose blocks a table prices.

    Args:
        space: The space.
        table: Its latency table.
        efficient: Leave out widths that a wider one matches or beats in latency.
        margin: Latencies are the upper end ``1 + margin`` of the predictions, not the predictions.

    Raises:
        MismatchError: The table belongs to another space, or an operation has no price.
    """

    def __init__(
        self,
        space: SearchSpace,
        table: LatencyTable,
        *,
        efficient: bool = False,
        margin: float = 0.0,
    ) -> None:
        table.require_space(space_label(space))
        self.space = space
        self.table = table
        self.efficient = efficient
        self.margin = margin
        choose = self._efficient_widths if efficient else self._priced_widths
        self._choose_widths = choose
        self._widths: dict[tuple[Layer, str], tuple[int, ...]] = {}
        self._addends: dict[tuple[Layer, str], tuple[tuple[Choice, ...], Floats]] = {}
        self._width_arrays: dict[tuple[Layer, str], NDArray[np.int64]] = {}
        self._joined: dict[tuple[tuple[Layer, str], ...], _Offered] = {}

    def only(self, keep: Callable[[str], bool]) -> PricedSpace:
        """The same space with fewer operations: only those that ``keep`` accepts by name.

        Raises:
            InvalidValueError: A layer would have no operation left.
        """
        space = self.space.only(keep)
        return PricedSpace(space, self.table, efficient=self.efficient, margin=self.margin)

    def within_memory(self, most_bytes: float) -> PricedSpace:
        """The part of the space whose networks keep a limit of peak memory in bytes.

        Raises:
            BudgetError: No network keeps the limit.
        """
        smaller = within_memory(self.space, most_bytes)
        return PricedSpace(smaller, self.table, efficient=self.efficient, margin=self.margin)

    def widths(self, layer: Layer, op: str) -> tuple[int, ...]:
        """The widths that an elastic operation at a layer may have, in ascending order."""
        if (layer, op) not in self._widths:
            self._widths[layer, op] = self._choose_widths(layer, op)
        return self._widths[layer, op]

    def _priced_widths(self, layer: Layer, op: str) -> tuple[int, ...]:
        """The widths of an operation at a layer that have a price, in ascending order."""
        blocks = [layer.block(Choice(op, width)) for width in layer.widths(op)]
        self.table.read_ahead(block for block in blocks if block is not None)
        priced = zip(layer.widths(op), blocks, strict=True)
        found = tuple(width for width, block in priced if block is None or block in self.table)
        if not found:
            raise MismatchError(f"{self.table.path} prices no width of {op} in {layer}")
        return found

    def _efficient_widths(self, layer: Layer, op: str) -> tuple[int, ...]:
        """The priced widths without those that a wider width matches or beats in latency."""
        blocks: dict[int, BlockSpec] = {}
        for width in self._priced_widths(layer, op):
            block = layer.block(Choice(op, width))
            assert block is not None
            blocks[width] = block
        return efficient_widths(self.table, blocks)

    def latency_ms(self, architecture: Architecture) -> float:
        """Latency of an architecture that counts: the predicted one with the margin."""
        return self.predicted_ms(architecture) * (1 + self.margin)

    def predicted_ms(self, architecture: Architecture) -> float:
        """Predicted latency of an architecture, without the margin."""
        return self.table.predict(self.space.lower(architecture)).latency_ms

    @cached_property
    def _slopes(self) -> Floats:
        """Price of the weights' footprint in ms a byte, one number a piece."""
        return np.array([slope for slope, _ in self.table.price_model.pieces()])

    @cached_property
    def _counts_bytes(self) -> bool:
        """Whether the weights' footprint costs anything."""
        return bool(self._slopes.any())

    @cached_property
    def base_ms(self) -> Floats:
        """Latency that does not depend on choices: stem, head and a constant, ``(pieces,)``."""
        constants = np.array([constant for _, constant in self.table.price_model.pieces()])
        fixed = sum(self._addend(spec) for spec in (*self.space.stem, *self.space.head))
        result: Floats = constants * (1 + self.margin) + fixed
        return result

    def addend_ms(self, layer: Layer, choice: Choice) -> Floats:
        """Latency that a choice adds to every piece, ``(pieces,)``.

        The latency of a network is the largest piece of the sum over its choices.
        """
        block = layer.block(choice)
        return np.zeros(len(self._slopes)) if block is None else self._addend(block)

    def addends_ms(self, layer: Layer, op: str) -> tuple[tuple[Choice, ...], Floats]:
        """All priced choices of an operation, and the latency that each adds.

        Returns:
            Choices, in ascending order of width where there is one, and addends in ms
            ``(choices, pieces)``.

        Raises:
            MismatchError: The table prices no choice of the operation.
        """
        if (layer, op) not in self._addends:
            choices = tuple(layer.choices(op, self.widths))
            choices = tuple(choice for choice in choices if self.is_priced(layer, choice))
            if not choices:
                raise MismatchError(f"{self.table.path} prices no {op} in {layer}")
            addends = np.array([self.addend_ms(layer, choice) for choice in choices])
            self._addends[layer, op] = choices, addends
        return self._addends[layer, op]

    def width_addends_ms(self, layer: Layer, op: str) -> tuple[NDArray[np.int64], Floats]:
        """Like ``addends_ms``, for an elastic operation: widths in channels, ``(choices,)``."""
        if (layer, op) not in self._width_arrays:
            choices = self.addends_ms(layer, op)[0]
            self._width_arrays[layer, op] = np.array([c.width for c in choices], dtype=np.int64)
        return self._width_arrays[layer, op], self._addends[layer, op][1]

    def is_priced(self, layer: Layer, choice: Choice) -> bool:
        """Whether the table prices a choice. Leaving a layer out needs no price."""
        block = layer.block(choice)
        return block is None or block in self.table

    def _addend(self, spec: BlockSpec) -> Floats:
        result: Floats = np.full(len(self._slopes), self.table.price_ms(spec))
        if self._counts_bytes:  # counting them takes longer than all else
            result += self._slopes * self.table.footprint_bytes(spec)
        return result * (1 + self.margin)

    def fastest(self, layers: Sequence[Sequence[tuple[Layer, str]]]) -> tuple[list[Choice], float]:
        """The choices of least latency, one a layer, and the latency in ms.

        Args:
            layers: Pairs of layer and operation to choose from, one sequence for each layer of
                the network. Any priced width may be chosen.
        """
        return self._extreme(cheapest, layers)

    def slowest(self, layers: Sequence[Sequence[tuple[Layer, str]]]) -> tuple[list[Choice], float]:
        """The choices of greatest latency. Arguments and result are those of ``fastest``."""
        return self._extreme(costliest, layers)

    def _extreme(
        self, find: Callable[[Layers], Code], layers: Sequence[Sequence[tuple[Layer, str]]]
    ) -> tuple[list[Choice], float]:
        offered = [self._offered(tuple(options)) for options in layers]
        network = Layers.of_fixed_depth(
            [each.addends_ms for each in offered],
            self.base_ms,
            bounds=[each.bounds for each in offered],
        )
        code = find(network)
        choices = [each.choices[number] for each, number in zip(offered, code, strict=True)]
        return choices, network.cost(code)

    def _offered(self, options: tuple[tuple[Layer, str], ...]) -> _Offered:
        """All choices of several operations, and the latencies that they add."""
        if options not in self._joined:
            found = [self.addends_ms(layer, op) for layer, op in options]
            choices = tuple(choice for made, _ in found for choice in made)
            addends = np.concatenate([addends for _, addends in found])
            self._joined[options] = _Offered(choices, addends, Bounds.of(addends))
        return self._joined[options]

    def extremes(self) -> tuple[Architecture, Architecture]:
        """The fastest and the slowest architecture of the space."""
        return self._extremes

    @cached_property
    def _extremes(self) -> tuple[Architecture, Architecture]:
        space = self.space
        offered = [self._offered(tuple((layer, op) for op in layer.ops)) for layer in space.layers]
        network = Layers(
            space.ranges,
            [space.depths(stage) for stage in range(len(space.stages))],
            [each.addends_ms for each in offered],
            self.base_ms,
            bounds=[each.bounds for each in offered],
        )

        def made_of(code: Code) -> Architecture:
            return space.architecture(
                [
                    [offered[i].choices[code[i]] for i in r if code[i] != ABSENT]
                    for r in space.ranges
                ]
            )

        return made_of(cheapest(network)), made_of(costliest(network))

    def feasible_ms(self) -> tuple[float, float]:
        """Feasible range: the least and the greatest latency of the whole space, in ms."""
        fastest, slowest = self.extremes()
        return self.latency_ms(fastest), self.latency_ms(slowest)


@dataclass(frozen=True)
class _Offered:
    """Choices of one layer, the latencies that they add ``(choices, pieces)``, and the bounds."""

    choices: tuple[Choice, ...]
    addends_ms: Floats
    bounds: Bounds
