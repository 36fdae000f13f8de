"""The priced widths of the layers of an architecture, and the latency that each width adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.latency.priced_space import PricedSpace
from nas.spaces import Choice, Layer

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

SHAPE_TOLERANCE = 0.10  # largest relative distance of a layer's scale from the common one

Found = tuple[list[int], float]
"""Widths, and the latency in ms of the network that has them."""


@dataclass(frozen=True)
class WidthOptions:
    """The priced widths of each layer.

    Attributes:
        start: First width of each layer, ``(layers,)``.
        widths: Widths of each layer in ascending order, one array ``(options,)`` a layer.
        addends_ms: Latency that each width adds, one array ``(options, pieces)`` a layer.
    """

    start: Floats
    widths: tuple[NDArray[np.int64], ...]
    addends_ms: tuple[Floats, ...]

    @classmethod
    def of(cls, priced: PricedSpace, rows: Sequence[tuple[Layer, Choice]]) -> WidthOptions:
        """All priced widths of layers, which start from the widths of their choices."""
        found = [priced.width_addends_ms(layer, choice.op) for layer, choice in rows]
        start = np.array([choice.width for _, choice in rows], dtype=np.float64)
        return cls(start, tuple(w for w, _ in found), tuple(a for _, a in found))

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """Index of the first width of each layer among the widths of all layers, ``(layers,)``."""
        counts = [len(w) for w in self.widths]
        return np.cumsum([0, *counts[:-1]])

    @cached_property
    def lowest(self) -> NDArray[np.int64]:
        """The narrowest width of each layer, ``(layers,)``."""
        return np.array([w[0] for w in self.widths])

    @cached_property
    def highest(self) -> NDArray[np.int64]:
        """The widest width of each layer, ``(layers,)``."""
        return np.array([w[-1] for w in self.widths])

    @cached_property
    def _space(self) -> int:
        """Distance of two layers in an ascending array of all widths, or of their doubles."""
        return 2 * int(self.highest.max()) + 2

    @cached_property
    def _lifts(self) -> NDArray[np.int64]:
        """Amounts that keep the layers apart in such an array, ``(layers,)``."""
        return np.arange(len(self.widths)) * self._space

    @cached_property
    def _all_widths(self) -> NDArray[np.int64]:
        """Widths of all layers, ``(options of all layers,)``."""
        return np.concatenate(self.widths)

    @cached_property
    def _lifted(self) -> NDArray[np.int64]:
        """Widths of all layers, each layer above the one before, ``(options of all layers,)``."""
        return self._all_widths + np.repeat(self._lifts, [len(w) for w in self.widths])

    @cached_property
    def _middles(self) -> NDArray[np.int64]:
        """Twice the midpoints of neighbouring widths, lifted, ``(options - 1 of all layers,)``."""
        pairs = zip(self.widths, self._lifts, strict=True)
        return np.concatenate([w[1:] + w[:-1] + lift for w, lift in pairs])

    @cached_property
    def _columns(self) -> Floats:
        """Addends of all layers, ``(pieces, options of all layers + 1)``; the last is a filler."""
        filler = np.zeros((1, self.addends_ms[0].shape[1]))
        return np.ascontiguousarray(np.concatenate([*self.addends_ms, filler]).T)

    @cached_property
    def _rows(self) -> Floats:
        """Addends of all layers, ``(options of all layers, pieces)``."""
        return np.concatenate(self.addends_ms)

    def _below(self, lifted: NDArray[np.int64], bounds: Floats | NDArray[np.int64]) -> Indices:
        """For every layer the number of its lifted values below a bound, ``(..., layers)``.

        The bounds are integers, or floats that are compared as their ceilings, which is the same
        for integer values and costs no rounding when they are lifted.
        """
        if bounds.dtype == np.float64:
            bounds = np.ceil(bounds)
        within = np.maximum(np.minimum(bounds, self._space - 1), 0)  # faster than clip
        return lifted.searchsorted((within + self._lifts).astype(np.int64))

    def picks(self, wanted: Floats | NDArray[np.int64]) -> Indices:
        """Indices of the widths that are nearest to the wanted ones, ``(..., layers)``."""
        layers = np.arange(len(self.widths))
        return self._below(self._middles, wanted * 2) - (self._firsts - layers)

    def snapped(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """The width of each layer that is nearest to the wanted one."""
        return self.at(self.picks(wanted))

    def at(self, picks: Indices) -> NDArray[np.int64]:
        """The widths at one index a layer, ``(..., layers)``."""
        found: NDArray[np.int64] = self._all_widths[picks + self._firsts]
        return found

    def sums_ms(self, base_ms: Floats, picks: Indices) -> Floats:
        """Sums of networks ``(n, pieces)`` that have the widths at these indices ``(n, layers)``.

        They are added up layer by layer, so that equal networks have equal sums everywhere.
        """
        added = self._rows[picks.T + self._firsts[:, None]]  # (layers, n, pieces)
        added[0] += base_ms
        sums: Floats = np.add.accumulate(added, axis=0)[-1]  # unlike a sum, always in this order
        return sums

    def spans(self, scales: Floats) -> tuple[Indices, Indices]:
        """Indices of the widths that keep the shape at common scales, ``(scales, layers)``.

        They are the widths within the tolerance around the scaled start. If there is none, the
        nearest width is the only one.

        Returns:
            The first index, and the one behind the last.
        """
        wanted = scales[:, None] * self.start
        above = np.floor(wanted * (1 + SHAPE_TOLERANCE)) + 1
        first = self._below(self._lifted, wanted * (1 - SHAPE_TOLERANCE)) - self._firsts
        last = self._below(self._lifted, above) - self._firsts
        below = np.maximum(first - 1, 0)
        beyond = np.minimum(first, np.array([len(w) for w in self.widths]) - 1)
        is_beyond = np.abs(self.at(beyond) - wanted) < np.abs(self.at(below) - wanted)
        nearest = np.where(is_beyond, beyond, below)
        none = first == last
        return np.where(none, nearest, first), np.where(none, nearest + 1, last)

    def ranges_ms(self, first: Indices, last: Indices) -> tuple[Floats, Floats]:
        """Least and greatest addends between these indices ``(n, layers)``.

        Returns:
            Two arrays ``(pieces, n, layers)``.
        """
        ends = np.stack([first + self._firsts, last + self._firsts], axis=-1)
        shape = (len(self._columns), *first.shape)
        lows = np.minimum.reduceat(self._columns, ends.ravel(), axis=1)[:, ::2]
        highs = np.maximum.reduceat(self._columns, ends.ravel(), axis=1)[:, ::2]
        return lows.reshape(shape), highs.reshape(shape)

    def between(self, first: Indices, last: Indices) -> WidthOptions:
        """The widths between these indices of each layer."""
        parts = [slice(*ends) for ends in zip(first.tolist(), last.tolist(), strict=True)]
        return WidthOptions(
            self.start,
            tuple(w[part] for w, part in zip(self.widths, parts, strict=True)),
            tuple(a[part] for a, part in zip(self.addends_ms, parts, strict=True)),
        )

    def levelled(self, piece: int, share: float, lows: Floats, highs: Floats) -> list[int]:
        """Index of the width of each layer whose price is nearest to a share of its price range.

        Args:
            piece: The piece of the price.
            share: The share, from 0 to 1.
            lows: Least price of each layer, ``(layers,)``.
            highs: Greatest price of each layer, ``(layers,)``.
        """
        shares = share * (highs - lows)
        return [
            int(np.abs(a[:, piece] - low - above).argmin())
            for a, low, above in zip(self.addends_ms, lows, shares, strict=True)
        ]

    def made_of(self, picks: Sequence[int], base_ms: Floats) -> Found:
        """The widths at one index a layer, and the latency of that network."""
        sums = base_ms + sum(a[i] for a, i in zip(self.addends_ms, picks, strict=True))
        widths = [int(w[i]) for w, i in zip(self.widths, picks, strict=True)]
        return widths, float(sums.max())
