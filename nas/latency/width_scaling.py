"""Elasticity scaling: bring the widths of an architecture to a target latency.

``greedy`` follows Algorithm 1 of TF-NAS. First all layers shrink or expand together. Then the
stages from the second on expand, then those from the third on, and so on, as long as the target
allows. The step of a layer is its width divided by the narrowest width among the layers that move
at that time, so the last stages move by single channels. There are two differences from the
published code: the expansion keeps its last step when the target is above the maximum, and every
step ends at a width that has a price.

``exact`` finds the latency closest to the target from below among networks that keep the shape: the
ratio of each width to its start is within 10 % of a common scale, as far as the bounds of the
widths allow. Where layers have many widths, it scales all layers uniformly, divides some of them
into two halves, and combines all sums of one half with all sums of the other. If that leaves a gap
below the target, it computes all possible sums of all layers: a set of integers, stored as the bits
of one number and extended layer by layer. Either way takes milliseconds a network. If no such
network is as close as the greedy one, which need not keep the shape, ``exact`` returns the greedy
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latbench.errors import BudgetError, InvalidValueError
from latbench.units import format_ms
from nas.latency.priced_space import PricedSpace
from nas.spaces import Architecture, Choice, Layer

Floats = NDArray[np.float64]

SHAPE_TOLERANCE = 0.10  # largest relative distance of a layer's scale from the common one
_BINS = (
    400_000  # latencies are integers up to this number: the rounding error is below 0.005 % in all
)
_SCALES = (
    48  # number of common scales to try, evenly spread from the narrowest to the widest network
)
_NEAR = 6  # where halves leave a gap: number of scales nearest the target to solve exactly
_GOOD_ENOUGH = 1e-4  # relative gap below the target at which the search stops
_ROUNDING = 1e-9  # sums of the same prices in another order differ in their last digits
_TRIES = 64  # possible sums to check below the target, for each piece of the price
_HALF = 2_048  # largest number of sums of the layers of one half
_FEW = 32  # widths to try of each layer: more layers help more than more widths
_MEETINGS = 32  # combinations of both halves, nearest the target, whose latency is computed


@dataclass(frozen=True)
class Fit:
    """An architecture with widths that bring it to a target.

    Attributes:
        target_ms: Latency that was asked for.
        latency_ms: Predicted latency of ``architecture``.
        min_ms: Least latency of its operations and depths over all widths.
        max_ms: Greatest latency of its operations and depths over all widths.
    """

    target_ms: float
    latency_ms: float
    min_ms: float
    max_ms: float
    architecture: Architecture


Row = tuple[Layer, Choice]
"""One layer of the architecture, and the choice that it starts from."""


def fit_exact(
    priced: PricedSpace, architecture: Architecture, target_ms: float, *, clamp: bool = False
) -> Fit:
    """The closest latency at or below the target that keeps the network's shape.

    The result is at least as close as that of ``fit_greedy``. It is the same network if none that
    keeps the shape is closer.

    Args:
        priced: The space and its prices.
        architecture: Gives operations, depths and the ratios of the widths.
        target_ms: Latency not to exceed.
        clamp: Take the nearest feasible latency if the target is outside of the feasible range.

    Raises:
        BudgetError: The target is outside of the feasible range of these operations and depths,
            and ``clamp`` is off. Carries the nearest bound.
    """
    rows = _rows(priced, architecture)
    low, high = width_range_ms(priced, rows)
    if not clamp:
        check_feasible(target_ms, low, high, what="this architecture")
    goal_ms = min(max(target_ms, low), high) if clamp else target_ms
    options = _Options.of(priced, rows)
    greedy = _greedy_widths(priced, options, architecture, goal_ms)
    greedy_ms = priced.latency_ms(_with_widths(priced, architecture, greedy))
    enough_ms = max(greedy_ms, goal_ms * (1 - _GOOD_ENOUGH))
    best, best_ms = greedy, -np.inf
    open_scales: list[_Options] = []  # scales where the two halves left a gap
    for scale in _scales_by_nearness(priced.base_ms, options, goal_ms):
        near = options.near(scale)
        found, is_closest = _near_scale(priced.base_ms, near, scale, goal_ms, best_ms)
        if not is_closest:
            open_scales.append(near)
        if found is not None and found[1] > best_ms:
            best, best_ms = found
        if best_ms >= enough_ms:
            break
    else:
        for near in open_scales[:_NEAR]:
            found = _closest_below(priced.base_ms, near, goal_ms)
            if found is not None and found[1] > best_ms:
                best, best_ms = found
            if best_ms >= enough_ms:
                break
    scaled = _with_widths(priced, architecture, best)
    latency_ms = priced.latency_ms(scaled)
    if latency_ms < greedy_ms <= goal_ms:
        scaled, latency_ms = _with_widths(priced, architecture, greedy), greedy_ms
    return Fit(target_ms, latency_ms, low, high, scaled)


def fit_greedy(
    priced: PricedSpace, architecture: Architecture, target_ms: float, *, clamp: bool = False
) -> Fit:
    """Algorithm 1 of TF-NAS on priced widths.

    Args:
        priced: The space and its prices.
        architecture: Gives operations, depths and the first widths.
        target_ms: Latency not to exceed.
        clamp: Take the nearest feasible latency if the target is outside of the feasible range,
            as elasticity scaling inside a search does.

    Raises:
        BudgetError: The target is outside of the feasible range, and ``clamp`` is off.
    """
    rows = _rows(priced, architecture)
    low, high = width_range_ms(priced, rows)
    if not clamp:
        check_feasible(target_ms, low, high, what="this architecture")
    options = _Options.of(priced, rows)
    widths = _greedy_widths(priced, options, architecture, max(target_ms, low))
    scaled = _with_widths(priced, architecture, widths)
    return Fit(target_ms, priced.latency_ms(scaled), low, high, scaled)


class Method(Protocol):
    """A function that scales the widths of an architecture to a target, like ``fit_exact``."""

    def __call__(
        self,
        priced: PricedSpace,
        architecture: Architecture,
        target_ms: float,
        *,
        clamp: bool = False,
    ) -> Fit: ...


METHODS: dict[str, Method] = {
    "exact": fit_exact,
    "greedy": fit_greedy,
}


def check_feasible(target_ms: float, low_ms: float, high_ms: float, *, what: str) -> None:
    """Refuse a target outside of the feasible range.

    Raises:
        BudgetError: Carries the nearest bound as ``nearest_ms``.
    """
    if low_ms * (1 - _ROUNDING) <= target_ms <= high_ms * (1 + _ROUNDING):
        return
    nearest, inwards = (low_ms, 1 + 1e-5) if target_ms < low_ms else (high_ms, 1 - 1e-5)
    raise BudgetError(
        f"{format_ms(target_ms)} is out of reach: {what} takes {format_ms(low_ms)} to "
        f"{format_ms(high_ms)} on this device; the nearest feasible "
        f"target is {nearest * inwards:.6g}ms",
        nearest_ms=nearest,
    )


def width_range_ms(priced: PricedSpace, rows: Sequence[Row]) -> tuple[float, float]:
    """Least and greatest latency over all widths, with fixed operations and depths."""
    options = [[(layer, choice.op)] for layer, choice in rows]
    return priced.fastest(options)[1], priced.slowest(options)[1]


def _rows(priced: PricedSpace, architecture: Architecture) -> list[Row]:
    if not priced.space.elastic_width:
        raise InvalidValueError(f"the blocks of {priced.space.name} have no widths to scale")
    return [
        (layer, choice)
        for stage, layers in zip(architecture.stages, priced.space.stages, strict=True)
        for choice, layer in zip(stage, layers, strict=False)
    ]


def _with_widths(
    priced: PricedSpace, architecture: Architecture, widths: Sequence[int]
) -> Architecture:
    left = iter(widths)
    return priced.space.architecture(
        [[Choice(choice.op, next(left)) for choice in stage] for stage in architecture.stages]
    )


def _fastest_widths(priced: PricedSpace, rows: Sequence[Row]) -> list[int]:
    choices, _ = priced.fastest([[(layer, choice.op)] for layer, choice in rows])
    return [choice.width for choice in choices if choice.width is not None]


def _greedy_widths(
    priced: PricedSpace, options: _Options, architecture: Architecture, goal_ms: float
) -> list[int]:
    """Widths with a latency at or below a goal. The goal must not be below the least latency."""
    base_ms = priced.base_ms
    lengths = [len(stage) for stage in architecture.stages]
    stage_of = np.repeat(np.arange(len(lengths)), lengths)  # (layers,)
    whole = options.start.astype(np.int64)
    current = options.snapped(whole)
    first_stage = 0
    if _latency_ms(base_ms, options, current) > goal_ms:
        shrunk, latencies_ms = _walk(base_ms, options, whole, -_steps(whole))
        fitting = np.flatnonzero(latencies_ms <= goal_ms)
        if len(fitting):
            current = shrunk[fitting[0]]
            first_stage = 1
        else:  # prices do not grow with width
            current = np.array(_fastest_widths(priced, _rows(priced, architecture)))
    for stage in range(first_stage, len(lengths)):
        moving = stage_of >= stage
        steps = np.zeros_like(current)
        steps[moving] = _steps(current[moving])
        grown, latencies_ms = _walk(base_ms, options, current, steps)
        over = np.flatnonzero(latencies_ms > goal_ms)
        taken = int(over[0]) if len(over) else len(grown)
        if taken:
            current = grown[taken - 1]
    return [int(width) for width in current]


def _steps(widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of channels of a step of each layer: its width over the narrowest, rounded."""
    steps: NDArray[np.int64] = np.round(widths / widths.min()).astype(np.int64)
    return steps


def _walk(
    base_ms: Floats, options: _Options, start: NDArray[np.int64], steps: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Floats]:
    """The networks after one step, two steps, and so on, until no layer can move any further.

    Args:
        base_ms: Latency that does not depend on choices, ``(pieces,)``.
        options: Widths of every layer, and the latencies that they add.
        start: First width of every layer, with or without a price, ``(layers,)``.
        steps: Channels a step, ``(layers,)``: all positive or all negative; 0 for a layer that
            does not move.

    Returns:
        Priced widths ``(steps, layers)``, each the nearest to the exact one, and latencies
        ``(steps,)``.
    """
    bounds = np.array(
        [w[-1 if step > 0 else 0] for w, step in zip(options.widths, steps, strict=True)]
    )
    moving = steps != 0
    left = (bounds - start)[moving] / steps[moving]
    count = max(0, int(np.ceil(left.max()))) if moving.any() else 0
    wanted = start + np.arange(1, count + 1)[:, None] * steps  # (steps, layers)
    widths, sums = np.empty_like(wanted), np.tile(base_ms, (count, 1))
    for layer, is_moving in enumerate(moving):
        asked = wanted[:, layer] if is_moving else start[layer : layer + 1]
        picks = options.picks(layer, asked)
        widths[:, layer] = options.widths[layer][picks]
        sums += options.addends_ms[layer][picks]
    return widths, sums.max(axis=1)


def _latency_ms(base_ms: Floats, options: _Options, widths: NDArray[np.int64]) -> float:
    """Latency of priced widths."""
    sums = base_ms.copy()
    for layer, width in enumerate(widths):
        sums += options.addends_ms[layer][options.picks(layer, width)]
    return float(sums.max())


@dataclass(frozen=True)
class _Options:
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
    def of(cls, priced: PricedSpace, rows: Sequence[Row]) -> _Options:
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

    def near(self, scale: float) -> _Options:
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
        return _Options(self.start, tuple(widths), tuple(addends))

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


def _scales_by_nearness(base_ms: Floats, options: _Options, target_ms: float) -> list[float]:
    """Common scales, sorted by the distance of the uniformly scaled network to the target."""
    lowest = min(w[0] / start for w, start in zip(options.widths, options.start, strict=True))
    highest = max(w[-1] / start for w, start in zip(options.widths, options.start, strict=True))
    scales = np.geomspace(lowest, highest, _SCALES)
    latencies = np.repeat(base_ms[None], _SCALES, axis=0)  # (scales, pieces)
    for layer, (a, start) in enumerate(zip(options.addends_ms, options.start, strict=True)):
        latencies += a[options.picks(layer, scales * start)]
    order = np.argsort(np.abs(latencies.max(axis=1) - target_ms), kind="stable")
    return [float(scales[i]) for i in order]


Found = tuple[list[int], float]
"""Widths, and the latency in ms of the network that has them."""


def _near_scale(
    base_ms: Floats, options: _Options, scale: float, target_ms: float, best_ms: float
) -> tuple[Found | None, bool]:
    """A network at one scale that keeps the shape, with a latency at or below the target.

    Returns:
        The widths and the latency, or None; and whether it is certain that no other network at
        this scale is both closer to the target and above ``best_ms``.
    """
    lows = [a.min(axis=0) for a in options.addends_ms]  # by layer (pieces,)
    highs = [a.max(axis=0) for a in options.addends_ms]
    low_ms, high_ms = base_ms + sum(lows), base_ms + sum(highs)
    if low_ms.max() > target_ms or high_ms.max() <= best_ms:
        return None, True
    piece = int(high_ms.argmax())
    if high_ms[piece] <= target_ms:
        widest = [int(a[:, piece].argmax()) for a in options.addends_ms]
        return options.made_of(widest, base_ms), True
    best: Found | None = None
    share = (target_ms - low_ms[piece]) / (high_ms[piece] - low_ms[piece])
    for picks in (options.nearest(scale), options.levelled(piece, share)):
        found = _met_below(base_ms, options, picks, target_ms)
        if found is not None and (best is None or found[1] > best[1]):
            best = found
        if best is not None and best[1] >= target_ms * (1 - _GOOD_ENOUGH):
            return best, True
    return best, False


def _met_below(
    base_ms: Floats, options: _Options, picks: Sequence[int], target_ms: float
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
    for first in np.argsort(-total, kind="stable")[:_MEETINGS]:
        if np.isneginf(total[first]):
            return None
        chosen = sides.choose(picks, int(first), int(order[place[first]]))
        found = options.made_of(chosen, base_ms)
        if found[1] <= target_ms:
            return found
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
    def deal(cls, options: _Options, piece: int, picks: Sequence[int]) -> _Sides:
        """Divide the layers: the widest range first, each to the half that has fewer sums."""
        layers: tuple[list[int], list[int]] = ([], [])
        tried: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
        sums = [np.zeros(1), np.zeros(1)]
        spans = [float(np.ptp(a[:, piece])) for a in options.addends_ms]
        for layer in np.argsort(-np.array(spans), kind="stable").tolist():
            prices = options.addends_ms[layer][:, piece]
            count = min(len(prices), _FEW)
            side = int(len(sums[1]) < len(sums[0]))
            if count == 1 or len(sums[side]) * count > _HALF:
                continue
            some = np.linspace(0, len(prices) - 1, count).astype(np.int64)
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


def _closest_below(base_ms: Floats, options: _Options, target_ms: float) -> Found | None:
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
        within = reachable[-1] & ((1 << (_BINS + 1)) - 1)
        for _ in range(_TRIES):
            if not within:
                break
            total = within.bit_length() - 1
            found = options.made_of(_trace(reachable, extra, total), base_ms)
            if found[1] <= target_ms:
                if best is None or found[1] > best[1]:
                    best = found
                break
            within ^= 1 << total
        if best is not None and best[1] >= target_ms * (1 - _GOOD_ENOUGH):
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


def _trace(reachable: Sequence[int], extra: Sequence[Sequence[int]], total: int) -> list[int]:
    """Indices of one cost a layer that add up to ``total``."""
    picks: list[int] = []
    for layer in range(len(extra) - 1, -1, -1):
        for index, cost in enumerate(extra[layer]):
            if cost <= total and reachable[layer] >> (total - cost) & 1:
                picks.append(index)
                total -= cost
                break
    return picks[::-1]
