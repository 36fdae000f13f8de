"""Networks visited in turn and compared pass by pass.

When networks are timed one after the other, a change of the machine looks like a difference between
them. Here every pass visits all of them in a random order, and networks are compared pass by pass:
their ratio is the median over passes of the ratio of their fastest calls. On a shared machine under
load, the ratio of a network to itself had a standard deviation of 2.2 % after 20 passes; the ratio
of the two low quantiles had 5.9 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network
from latbench.measure.statistics import bootstrap, low_quantile_interval
from latbench.measure.sweep import fraction_done, sweep_pass
from latbench.measure.visit import Visit
from latbench.measure.visiting import Target
from latbench.models import OnnxModel
from latbench.profilers import Profiler
from latbench.progress import Progress, silent
from latbench.tables.comparison import (
    Verdict,
    adjusted,
    p_value_beyond,
    signed_rank_test,
    verdict_on,
)

Floats = NDArray[np.float64]

MIN_PASSES = 20
"""Least number of passes; with fewer, an interval means nothing."""

_MAX_PASSES = 400
_PRECISE = 0.01  # relative half width of intervals at which the sweep ends
_SIGNIFICANCE = 0.001  # a false alarm stops somebody's work
_SAME_CONFIDENCE = 0.99  # of the interval that SAME needs: it is looked at after every pass


def visit_in_turn(
    profiler: Profiler,
    networks: Sequence[OnnxModel | Network],
    *,
    limit_s: float,
    least_passes: int = MIN_PASSES,
    is_decided: Callable[[Mapping[int, Sequence[Visit]]], bool] = lambda visits: True,
    progress: Progress = silent,
) -> dict[int, list[Visit]]:
    """Visit all networks in passes until the intervals are narrow, or for so many seconds.

    Args:
        profiler: Profiler of the device.
        networks: Networks to visit.
        limit_s: Duration of the sweep, unless the intervals are narrow before.
        least_passes: Number of passes that are made whatever they take.
        is_decided: Whether the visits so far are enough where the intervals are narrow.
        progress: Callback that reports the progress.

    Returns:
        Visits by index of the network, in the order of the passes.

    Raises:
        RuntimeFailure: The runtime refused a network.
    """
    dwell_ms = profiler.profile.sweep.network_dwell_ms
    targets = [
        Target(index, network, visits=1, dwell_ms=dwell_ms, cold=False)
        for index, network in enumerate(networks)
    ]
    visits: dict[int, list[Visit]] = {target.id: [] for target in targets}
    begin, quantile, width = monotonic(), profiler.profile.sweep.quantile, inf
    for number in range(_MAX_PASSES):
        shown = f", ±{width:.1%}" if width < inf else ""

        def visited(done: int, total: int, number: int = number, shown: str = shown) -> None:
            spent_s, made = monotonic() - begin, number + done / total
            left_s = max(limit_s - spent_s, spent_s * (least_passes / made - 1))
            progress(fraction_done(spent_s, left_s), f"pass {number + 1}{shown}")

        taken = sweep_pass(profiler, targets, number=number, on_visit=visited).visits
        for index, visit in taken:
            visits[index].append(visit)
        spent_s = monotonic() - begin
        if number + 1 >= least_passes:
            width = _widest(fastest_ms(visits), quantile)
            if spent_s >= limit_s or (width <= _PRECISE and is_decided(visits)):
                break
    return visits


def fastest_ms(visits: Mapping[int, Sequence[Visit]]) -> Floats:
    """Fastest call of every visit in ms, ``(networks, passes)``."""
    return np.array([[min(visit.hot_ns) / 1e6 for visit in each] for each in visits.values()])


def _widest(fastest: Floats, quantile: float) -> float:
    """Largest relative half width of the intervals of latencies and of their ratios."""
    drawn = bootstrap(fastest, quantile)  # (resamples, networks)
    ratios = bootstrap(fastest[1:] / fastest[0], 0.5)
    low, high = np.quantile(np.concatenate([drawn, ratios], axis=1), (0.025, 0.975), axis=0)
    return float(((high - low) / (high + low)).max())


@dataclass(frozen=True)
class Change:
    """Latency of a network relative to the first one.

    Attributes:
        ratio: Median over passes of the ratio of the fastest calls.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        verdict: Verdict on the ratio.
    """

    ratio: float
    low: float
    high: float
    verdict: Verdict


def compare_with_first(fastest: Floats, *, tolerance: float) -> list[Change]:
    """Compare networks with the first one, pass by pass.

    Args:
        fastest: Fastest call of every visit in ms, ``(networks, passes)``.
        tolerance: Largest relative change that does not matter.

    Returns:
        A change for every network; that of the first one has the ratio 1.
    """
    to_first = fastest / fastest[0]  # (networks, passes)
    p_values = [1.0, *adjusted([_p_value(row, tolerance) for row in to_first[1:]])]
    changes = []
    for row, p_value in zip(to_first, p_values, strict=True):
        ratio = interval(row, 0.5)
        verdict = verdict_on(
            *interval(row, 0.5, confidence=_SAME_CONFIDENCE),
            p_value=p_value,
            tolerance=tolerance,
            significance=_SIGNIFICANCE,
        )
        changes.append(Change(*ratio, verdict))
    return changes


def _p_value(to_first: Floats, tolerance: float) -> float:
    return p_value_beyond(
        float(np.median(to_first)), tolerance, lambda end: signed_rank_test(np.log(to_first / end))
    )


def interval(
    samples: Floats, quantile: float, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """A quantile of samples with the ends of its interval."""
    estimate, low, high = low_quantile_interval(samples[None], quantile, confidence=confidence)
    return float(estimate[0]), float(low[0]), float(high[0])
