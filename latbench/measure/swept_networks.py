"""Latencies of whole networks from one sweep, and their intervals across sweeps.

Two things make a measured latency uncertain. The visits scatter; a bootstrap over visits shows how
much. And the machine drifts: an estimate from the same number of visits some minutes later differs
by more than the scatter explains. Reference networks, which every sweep visits, show this drift
from sweep to sweep. Within a sweep, the latencies of its successive parts show it. An interval here
is the wider one of the two at each end.

Glossary:

    part    a quarter of a sweep's passes, in their order
    spread  relative standard deviation of a network's latency from sweep to sweep
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.measure.samples import Interval
from latbench.measure.statistics import low_quantile, low_quantile_interval

Floats = NDArray[np.float64]

PARTS = 4
_LATEST = 4  # sweeps that describe the present drift: a few minutes
_WITHIN_S = 3600.0  # older sweeps say nothing about the present
_PARTS_COUNT = PARTS - 1  # degrees of freedom of the spread of parts, beside those of sweeps
HALF_WIDTH = 2.4  # of a 95 % interval, in spreads: Student's t with 6 degrees of freedom


class SweptNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency of one network in one sweep.

    Attributes:
        latency_ms: Low quantile over visits of the fastest call of each visit.
        low_ms: Lower end of its 95 % bootstrap interval.
        high_ms: Upper end of its 95 % bootstrap interval.
        parts_ms: The same low quantile in each part of the sweep.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    parts_ms: tuple[float, ...]

    @classmethod
    def of(cls, fastest_ms: Floats, quantile: float) -> list[SweptNetwork]:
        """Networks from the fastest calls of their visits, ``(networks, visits)``."""
        latency, low, high = low_quantile_interval(fastest_ms, quantile)
        parts = np.array_split(fastest_ms, PARTS, axis=1)
        by_part = np.stack([low_quantile(part, quantile) for part in parts], axis=1)
        return [
            cls(float(latency[i]), float(low[i]), float(high[i]), tuple(by_part[i].tolist()))
            for i in range(len(latency))
        ]


class SweptNetworks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Networks that were visited in one sweep.

    Attributes:
        networks: The networks that the sweep was made for.
        references: Networks that the prices were fitted on.
        references_then_ms: Latencies of the references in the profiling.
        passes: Number of passes.
        seconds: Duration of the sweep in s.
        finished_s: End of the sweep, in s since 1970.
    """

    networks: tuple[SweptNetwork, ...]
    references: tuple[SweptNetwork, ...]
    references_then_ms: tuple[float, ...]
    passes: int
    seconds: float
    finished_s: float

    @property
    def drift(self) -> float | None:
        """Latency of the references now over then, geometric mean; None without references."""
        if not self.references:
            return None
        pairs = zip(self.references, self.references_then_ms, strict=True)
        ratios = [log(now.latency_ms / then) for now, then in pairs]
        return exp(sum(ratios) / len(ratios))


def spread(sweeps: Sequence[SweptNetworks]) -> float:
    """Relative standard deviation of a network's latency from sweep to sweep, at least one sweep.

    It joins the variance between the latest sweeps, which the references show, and the variance
    that the parts of the last sweep predict. Weights are the degrees of freedom.
    """
    last = sweeps[-1]
    recent = [each for each in sweeps if last.finished_s - each.finished_s <= _WITHIN_S][-_LATEST:]
    parts = np.log([each.parts_ms for each in (*last.networks, *last.references)])
    within = float(parts.var(axis=1, ddof=1).mean()) / parts.shape[1]
    if not last.references or len(recent) == 1:
        return float(np.sqrt(within))
    latencies = [[each.latency_ms for each in sweep.references] for sweep in recent]
    between = float(np.log(latencies).var(axis=0, ddof=1).mean())
    freedom = len(recent) - 1
    joined = (_PARTS_COUNT * within + freedom * between) / (_PARTS_COUNT + freedom)
    return float(np.sqrt(joined))


def interval(network: SweptNetwork, relative_spread: float) -> Interval:
    """The 95 % interval of a network's latency, with the drift of the machine."""
    drift_ms = HALF_WIDTH * relative_spread * network.latency_ms
    return Interval(
        network.latency_ms,
        min(network.low_ms, network.latency_ms - drift_ms),
        max(network.high_ms, network.latency_ms + drift_ms),
    )
