"""One width a layer, so that the latency of the network is just below a target.

There are two ways. ``closest_of_halves`` divides some layers into two halves, and combines all sums
of one half with all sums of the other (Horowitz & Sahni 1974). ``closest_of_all_sums`` computes all
possible sums of all layers: a set of integers, stored as the bits of one number and extended layer
by layer.

``nas.optimize.exact_solver`` solves a multiple-choice knapsack too. It maximises scores under
budgets, and drops a partial solution if another one has a better score and costs less. Here score
and cost are the same latency, so no sum is better and cheaper than another one. The solver would
drop only equal sums, and keep all others in arrays instead of bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nas.latency.width_options import Floats, Found, WidthOptions

GOOD_ENOUGH = 1e-4  # relative gap below the target at which the search stops
_BINS = (
    400_000  # latencies are integers up to this number: the rounding error is below 0.005 % in all
)
_TRIES = 64  # possible sums to check below the target, for each piece of the price
_HALF = 2_048  # largest number of sums of the layers of one half
_FEW = 32  # widths to try of each layer: more layers help more than more widths
_MEETINGS = 32  # combinations of both halves, nearest the target, whose latency is computed


def closest_of_halves(
    base_ms: Floats, options: WidthOptions, picks: Sequence[int], target_ms: float
) -> Found | None:
    """Widths with a latency just below the target, near the given ones; None if none are found.

    The layers with the widest range of prices are divided into two halves, as long as each half has
    few sums. The other layers keep the given widths. For every sum of one half, bisection finds the
    best matching sum of the other half.
    """
    addends = options.addends_ms
    uniform_ms = base_ms + sum(a[i] for a, i in zip(addends, picks, strict=True))
    piece = int(uniform_ms.argmax())
    sides = _Sides.deal(options, piece, picks)
    room_ms = target_ms - float(uniform_ms[piece])
    one, other = sides.sums_ms
    order = other.argsort()
    place = np.searchsorted(other[order], room_ms - one, side="right") - 1  # (sums of one,)
    total = np.where(place >= 0, one + other[order[place]], -np.inf)
    for _ in range(min(_MEETINGS, len(total))):
        first = int(total.argmax())  # mostly the first one fits, so sorting all would be wasted
        if np.isneginf(total[first]):
            return None
        chosen = sides.choose(picks, first, int(order[place[first]]))
        found = options.made_of(chosen, base_ms)
        if found[1] <= target_ms:
            return found
        total[first] = -np.inf
    return None


@dataclass(frozen=True)
class _Sides:
    """Layers in two halves, and the sums that each half can add to the latency.

    Attributes:
        layers: Layers of each half.
        tried: Indices of the widths to try, by half and layer.
        sums_ms: Latency of each combination of these widths, one array a half, in the order of
            ``np.ravel_multi_index``.
    """

    layers: tuple[list[int], list[int]]
    tried: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]
    sums_ms: tuple[Floats, Floats]

    @classmethod
    def deal(cls, options: WidthOptions, piece: int, picks: Sequence[int]) -> _Sides:
        """Divide the layers: the widest range first, each to the half that has fewer sums."""
        layers: tuple[list[int], list[int]] = ([], [])
        tried: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
        sums = [np.zeros(1), np.zeros(1)]
        columns = [a[:, piece] for a in options.addends_ms]
        spans = np.array([column.max() - column.min() for column in columns])
        for layer in np.argsort(-spans, kind="stable").tolist():
            prices = columns[layer]
            count = min(len(prices), _FEW)
            side = int(len(sums[1]) < len(sums[0]))
            if count == 1 or len(sums[side]) * count > _HALF:
                continue
            some = _spread(len(prices), count)
            layers[side].append(layer)
            tried[side].append(some)
            more = prices[some] - prices[picks[layer]]
            sums[side] = (sums[side][:, None] + more).ravel()
        return cls(layers, tried, (sums[0], sums[1]))

    def choose(self, picks: Sequence[int], *combinations: int) -> list[int]:
        """The indices, replaced by one combination of each half for its layers."""
        chosen = list(picks)
        for layers, tried, index in zip(self.layers, self.tried, combinations, strict=True):
            where = np.unravel_index(index, [len(some) for some in tried]) if layers else ()
            for layer, some, place in zip(layers, tried, where, strict=True):
                chosen[layer] = int(some[place])
        return chosen


@cache
def _spread(options: int, count: int) -> NDArray[np.int64]:
    """So many indices of options, evenly spread from the first to the last."""
    return np.linspace(0, options - 1, count).astype(np.int64)


def closest_of_all_sums(base_ms: Floats, options: WidthOptions, target_ms: float) -> Found | None:
    """Widths with the greatest latency at or below the target; None if there are none."""
    addends = options.addends_ms
    best: Found | None = None
    for piece in range(len(base_ms)):
        floor_ms = np.array([a[:, piece].min() for a in addends])
        room_ms = target_ms - float(base_ms[piece]) - floor_ms.sum()
        if room_ms < 0:
            continue
        unit = max(room_ms, 1e-9) / _BINS
        extra = [
            np.ceil((a[:, piece] - f) / unit).astype(np.int64).tolist()
            for a, f in zip(addends, floor_ms, strict=True)
        ]
        reachable = _reachable_sums(extra)
        # bytes, because the test of a bit of an integer copies all of its bits
        by_layer = [sums.to_bytes(_BINS // 8 + 1, "little") for sums in reachable[:-1]]
        within = reachable[-1] & ((1 << (_BINS + 1)) - 1)
        for _ in range(_TRIES):
            if not within:
                break
            total = within.bit_length() - 1
            found = options.made_of(_trace(by_layer, extra, total), base_ms)
            if found[1] <= target_ms:
                if best is None or found[1] > best[1]:
                    best = found
                break
            within ^= 1 << total
        if best is not None and best[1] >= target_ms * (1 - GOOD_ENOUGH):
            break  # the other pieces cannot give anything better
    return best


def _reachable_sums(extra: Sequence[Sequence[int]]) -> list[int]:
    """All possible sums of one cost a layer, after each layer; a set bit is a possible sum."""
    mask = (1 << (_BINS + 1)) - 1
    sums = [1]
    for costs in extra:
        widened = 0
        for cost in set(costs):
            if cost <= _BINS:
                widened |= sums[-1] << cost
        sums.append(widened & mask)
    return sums


def _trace(reachable: Sequence[bytes], extra: Sequence[Sequence[int]], total: int) -> list[int]:
    """Indices of one cost a layer that add up to ``total``.

    Args:
        reachable: Possible sums before each layer; a set bit, the lowest first, is a possible sum.
        extra: Costs of the choices of each layer.
        total: A possible sum of all layers.
    """
    picks: list[int] = []
    for layer in range(len(extra) - 1, -1, -1):
        for index, cost in enumerate(extra[layer]):
            rest = total - cost
            if rest >= 0 and reachable[layer][rest >> 3] >> (rest & 7) & 1:
                picks.append(index)
                total = rest
                break
    return picks[::-1]
