"""The priced widths of the layers of an architecture, and the latency that each width adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.latency.priced_space import PricedSpace
from nas.spaces import Choice, Layer

Floats = NDArray[np.float64]

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
    def _middles(self) -> tuple[Floats, ...]:
        """Midpoints between neighbouring widths of each layer."""
        return tuple((w[1:] + w[:-1]) / 2 for w in self.widths)

    def picks(self, layer: int, wanted: ArrayLike) -> NDArray[np.int64]:
        """Indices of the widths of a layer that are nearest to the wanted ones."""
        return np.asarray(self._middles[layer].searchsorted(wanted))

    def snapped(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """The width of each layer that is nearest to the wanted one."""
        picks = [self.picks(layer, width) for layer, width in enumerate(wanted)]
        return np.array([w[i] for w, i in zip(self.widths, picks, strict=True)])

    def near(self, scale: float) -> WidthOptions:
        """The widths within the tolerance around a scale; the nearest width if there is none."""
        widths, addends = [], []
        for w, a, start in zip(self.widths, self.addends_ms, self.start, strict=True):
            wanted = start * scale
            first = int(np.searchsorted(w, wanted * (1 - SHAPE_TOLERANCE), side="left"))
            last = int(np.searchsorted(w, wanted * (1 + SHAPE_TOLERANCE), side="right"))
            if first == last:
                first = int(np.abs(w - wanted).argmin())
                last = first + 1
            widths.append(w[first:last])
            addends.append(a[first:last])
        return WidthOptions(self.start, tuple(widths), tuple(addends))

    def nearest(self, scale: float) -> list[int]:
        """Index of the width of each layer that is nearest to a scale."""
        return [int(self.picks(layer, width)) for layer, width in enumerate(self.start * scale)]

    def levelled(self, piece: int, share: float) -> list[int]:
        """Index of the width of each layer whose price is nearest to a share of its price range."""
        prices = [a[:, piece] for a in self.addends_ms]
        return [int(np.abs(p - p.min() - share * np.ptp(p)).argmin()) for p in prices]

    def made_of(self, picks: Sequence[int], base_ms: Floats) -> Found:
        """The widths at one index a layer, and the latency of that network."""
        sums = base_ms + sum(a[i] for a, i in zip(self.addends_ms, picks, strict=True))
        widths = [int(w[i]) for w, i in zip(self.widths, picks, strict=True)]
        return widths, float(sums.max())
