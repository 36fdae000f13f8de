"""Greedy elasticity scaling: Algorithm 1 of TF-NAS (Hu et al., ECCV 2020).

First all layers shrink or expand together. Then the stages from the second on expand, then those
from the third on, and so on, as long as the target allows. The step of a layer is its width divided
by the narrowest width among the layers that move at that time, so the last stages move by single
channels. There are two differences from the published code: the expansion keeps its last step when
the target is above the maximum, and every step ends at a width that has a price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.latency.width_options import Floats, WidthOptions

_FIRST_PART = 16  # steps to price at once; half of all walks end after three steps
_LARGER = 8  # how many times larger every further part is


def greedy_widths(
    base_ms: Floats,
    options: WidthOptions,
    depths: Sequence[int],
    goal_ms: float,
    *,
    fastest: Callable[[], Sequence[int]],
) -> list[int]:
    """Widths with a latency at or below a goal.

    Args:
        base_ms: Latency that does not depend on choices, ``(pieces,)``.
        options: Widths of every layer, and the latencies that they add.
        depths: Number of layers of each stage.
        goal_ms: Latency not to exceed; not below the least latency.
        fastest: Gives the widths of the least latency. They are needed if no common step down
            meets the goal, because prices need not grow with width.
    """
    stage_of = np.repeat(np.arange(len(depths)), depths)  # (layers,)
    whole = options.start.astype(np.int64)
    current = options.snapped(whole)
    first_stage = 0
    if _latency_ms(base_ms, options, current) > goal_ms:
        steps = -_steps(whole)
        for shrunk, latencies_ms in _walk(base_ms, options, whole, steps):
            fitting = np.flatnonzero(latencies_ms <= goal_ms)
            if len(fitting):
                current = shrunk[fitting[0]]
                first_stage = 1
                break
        else:  # prices do not grow with width
            current = np.array(fastest())
    for stage in range(first_stage, len(depths)):
        moving = stage_of >= stage
        steps = np.zeros_like(current)
        steps[moving] = _steps(current[moving])
        for grown, latencies_ms in _walk(base_ms, options, current, steps):
            over = np.flatnonzero(latencies_ms > goal_ms)
            taken = int(over[0]) if len(over) else len(grown)
            if taken:
                current = grown[taken - 1]
            if len(over):
                break
    return [int(width) for width in current]


def _steps(widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of channels of a step of each layer: its width over the narrowest, rounded."""
    steps: NDArray[np.int64] = np.round(widths / widths.min()).astype(np.int64)
    return steps


def _walk(
    base_ms: Floats, options: WidthOptions, start: NDArray[np.int64], steps: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """The networks after one step, two steps, and so on, until no layer can move any further.

    They come in parts, because a walk mostly ends after a few of its steps.

    Args:
        base_ms: Latency that does not depend on choices, ``(pieces,)``.
        options: Widths of every layer, and the latencies that they add.
        start: First width of every layer, with or without a price, ``(layers,)``.
        steps: Channels a step, ``(layers,)``: all positive or all negative; 0 for a layer that
            does not move.

    Yields:
        Priced widths ``(steps, layers)``, each the nearest to the exact one, and latencies
        ``(steps,)``.
    """
    bounds = np.where(steps > 0, options.highest, options.lowest)
    moving = steps != 0
    left = (bounds - start)[moving] / steps[moving]
    count = max(0, int(np.ceil(left.max()))) if moving.any() else 0
    done, part = 0, _FIRST_PART
    while done < count:
        numbers = np.arange(done + 1, min(done + part, count) + 1)
        picks = options.picks(start + numbers[:, None] * steps)  # (steps, layers)
        yield options.at(picks), options.sums_ms(base_ms, picks).max(axis=1)
        done, part = done + part, part * _LARGER


def _latency_ms(base_ms: Floats, options: WidthOptions, widths: NDArray[np.int64]) -> float:
    """Latency of priced widths."""
    return float(options.sums_ms(base_ms, options.picks(widths)[None]).max())
