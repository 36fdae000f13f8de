"""Exact elasticity scaling: the latency closest to a target from below that keeps the shape.

A network keeps the shape if the ratio of each width to its start is within ``SHAPE_TOLERANCE`` of a
common scale, as far as the bounds of the widths allow. Each of some common scales is one choice of
widths a layer (``nas.latency.closest_sum``). All scales are tried by halves, the one nearest to the
target first. If that leaves a gap below the target, all sums of the nearest scales are computed.
Either way takes milliseconds a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nas.latency.closest_sum import GOOD_ENOUGH, closest_of_all_sums, closest_of_halves
from nas.latency.width_options import Floats, Found, Indices, WidthOptions

_SCALES = (
    48  # number of common scales to try, evenly spread from the narrowest to the widest network
)
_PARTS = (1, 4, 16)  # where to split the scales: those of a part are priced together
_NEAR = 6  # where halves leave a gap: number of scales nearest the target to solve exactly


def exact_widths(
    base_ms: Floats, options: WidthOptions, goal_ms: float, *, enough_ms: float
) -> Found | None:
    """The widths closest to a goal from below that keep the shape, and their latency.

    Args:
        base_ms: Latency that does not depend on choices, ``(pieces,)``.
        options: Widths of every layer, and the latencies that they add.
        goal_ms: Latency not to exceed.
        enough_ms: Latency at which the search stops.

    Returns:
        The widths and the latency; None if no network that keeps the shape meets the goal.
    """
    best: Found | None = None
    best_ms = -np.inf
    open_scales: list[WidthOptions] = []  # scales where the two halves left a gap
    for near in _scales_by_nearness(base_ms, options, goal_ms):
        found, is_closest = near.closest(base_ms, goal_ms, best_ms)
        if not is_closest:
            open_scales.append(near.options)
        if found is not None and found[1] > best_ms:
            best, best_ms = found, found[1]
        if best_ms >= enough_ms:
            return best
    for left in open_scales[:_NEAR]:
        found = closest_of_all_sums(base_ms, left, goal_ms)
        if found is not None and found[1] > best_ms:
            best, best_ms = found, found[1]
        if best_ms >= enough_ms:
            break
    return best


def _scales_by_nearness(
    base_ms: Floats, options: WidthOptions, target_ms: float
) -> Iterator[_NearScale]:
    """Common scales, sorted by the distance of the uniformly scaled network to the target."""
    lowest = (options.lowest / options.start).min()
    highest = (options.highest / options.start).max()
    scales = np.geomspace(lowest, highest, _SCALES)
    picks = options.picks(scales[:, None] * options.start)  # (scales, layers)
    latencies_ms = options.sums_ms(base_ms, picks).max(axis=1)
    first, last = options.spans(scales)
    order = np.argsort(np.abs(latencies_ms - target_ms), kind="stable")
    for part in np.split(order, _PARTS):
        lows, highs = options.ranges_ms(first[part], last[part])
        for n, i in enumerate(part):
            yield _NearScale(options, picks[i], first[i], last[i], lows[:, n], highs[:, n])


@dataclass(frozen=True)
class _NearScale:
    """The networks at one scale that keep the shape.

    Attributes:
        every: All widths.
        uniform: Indices of the widths nearest to the scale, ``(layers,)``.
        first: Index of the first width of each layer that keeps the shape, ``(layers,)``.
        last: Index behind the last one, ``(layers,)``.
        lows: Least addends of these widths, ``(pieces, layers)``.
        highs: Greatest addends, ``(pieces, layers)``.
    """

    every: WidthOptions
    uniform: Indices
    first: Indices
    last: Indices
    lows: Floats
    highs: Floats

    @cached_property
    def options(self) -> WidthOptions:
        """The widths that keep the shape."""
        return self.every.between(self.first, self.last)

    def closest(
        self, base_ms: Floats, target_ms: float, best_ms: float
    ) -> tuple[Found | None, bool]:
        """A network with a latency at or below the target.

        Returns:
            The widths and the latency, or None; and whether it is certain that no other network at
            this scale is both closer to the target and above ``best_ms``.
        """
        low_ms, high_ms = (base_ms + _added_up(each) for each in (self.lows, self.highs))
        if low_ms.max() > target_ms or high_ms.max() <= best_ms:
            return None, True
        piece = int(high_ms.argmax())
        options = self.options
        if high_ms[piece] <= target_ms:
            widest = [int(a[:, piece].argmax()) for a in options.addends_ms]
            return options.made_of(widest, base_ms), True
        best: Found | None = None
        share = (target_ms - low_ms[piece]) / (high_ms[piece] - low_ms[piece])
        prices = self.lows[piece], self.highs[piece]
        for picks in (self._nearest(), options.levelled(piece, share, *prices)):
            found = closest_of_halves(base_ms, options, picks, target_ms)
            if found is not None and (best is None or found[1] > best[1]):
                best = found
            if best is not None and best[1] >= target_ms * (1 - GOOD_ENOUGH):
                return best, True
        return best, False

    def _nearest(self) -> list[int]:
        """Index in ``options`` of the width of each layer that is nearest to the scale."""
        nearest: list[int] = (self.uniform.clip(self.first, self.last - 1) - self.first).tolist()
        return nearest


def _added_up(rows: Floats) -> Floats:
    """Sums of ``(pieces, layers)`` over layers, added up in their order as all latencies are."""
    total: Floats = np.add.accumulate(rows, axis=1)[:, -1]
    return total
