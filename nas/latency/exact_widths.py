"""Exact elasticity scaling: the latency closest to a target from below that keeps the shape.

A network keeps the shape if the ratio of each width to its start is within ``SHAPE_TOLERANCE`` of a
common scale, as far as the bounds of the widths allow. Each of some common scales is one choice of
widths a layer (``nas.latency.closest_sum``). All scales are tried by halves, the one nearest to the
target first. If that leaves a gap below the target, all sums of the nearest scales are computed.
Either way takes milliseconds a network.
"""

from __future__ import annotations

import numpy as np

from nas.latency.closest_sum import GOOD_ENOUGH, closest_of_all_sums, closest_of_halves
from nas.latency.width_options import Floats, Found, WidthOptions

_SCALES = (
    48  # number of common scales to try, evenly spread from the narrowest to the widest network
)
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
    for scale in _scales_by_nearness(base_ms, options, goal_ms):
        near = options.near(scale)
        found, is_closest = _near_scale(base_ms, near, scale, goal_ms, best_ms)
        if not is_closest:
            open_scales.append(near)
        if found is not None and found[1] > best_ms:
            best, best_ms = found, found[1]
        if best_ms >= enough_ms:
            return best
    for near in open_scales[:_NEAR]:
        found = closest_of_all_sums(base_ms, near, goal_ms)
        if found is not None and found[1] > best_ms:
            best, best_ms = found, found[1]
        if best_ms >= enough_ms:
            break
    return best


def _scales_by_nearness(base_ms: Floats, options: WidthOptions, target_ms: float) -> list[float]:
    """Common scales, sorted by the distance of the uniformly scaled network to the target."""
    lowest = min(w[0] / start for w, start in zip(options.widths, options.start, strict=True))
    highest = max(w[-1] / start for w, start in zip(options.widths, options.start, strict=True))
    scales = np.geomspace(lowest, highest, _SCALES)
    latencies = np.repeat(base_ms[None], _SCALES, axis=0)  # (scales, pieces)
    for layer, (a, start) in enumerate(zip(options.addends_ms, options.start, strict=True)):
        latencies += a[options.picks(layer, scales * start)]
    order = np.argsort(np.abs(latencies.max(axis=1) - target_ms), kind="stable")
    return [float(scales[i]) for i in order]


def _near_scale(
    base_ms: Floats, options: WidthOptions, scale: float, target_ms: float, best_ms: float
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
        found = closest_of_halves(base_ms, options, picks, target_ms)
        if found is not None and (best is None or found[1] > best[1]):
            best = found
        if best is not None and best[1] >= target_ms * (1 - GOOD_ENOUGH):
            return best, True
    return best, False
