"""History of a table: how disturbed each pass of the profiling was, and every network measured.

The estimates of a table join all its visits. Here are the visits by pass and by sweep instead,
which show the machine's noise over time, and what whole networks took whenever they were measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latbench.blocks import Network
from latbench.measure.samples import Interval, Samples
from latbench.measure.statistics import low_quantile
from latbench.tables.estimation import Drift
from latbench.tables.records import LATER_ROLES, Purpose
from latbench.tables.store import TableStore

_OUTER = 0.1  # nine tenths and one tenth of the targets bound the range of a pass


@dataclass(frozen=True)
class PassNoise:
    """How much longer the targets of one pass took than their estimates.

    Attributes:
        number: Number of the pass, from 1.
        finished_at: Date and time of its end, UTC.
        low: Slowdown that a tenth of the targets stay below: latency / estimate - 1.
        middle: Median slowdown.
        high: Slowdown that nine tenths of the targets stay below.
    """

    number: int
    finished_at: str
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class LaterSweep:
    """Networks that were measured in one sweep after the profiling.

    Attributes:
        purpose: Purpose of the sweep.
        finished_at: Date and time of its last pass, UTC.
        networks: Latency of each network with its 95 % interval, as measured then.
        drift: Latency of the profiling's networks in this sweep over then, geometric mean; None if
            there are none.
    """

    purpose: Purpose
    finished_at: str
    networks: dict[Network, Interval]
    drift: float | None


def pass_noise(store: TableStore, quantile: float) -> list[PassNoise]:
    """Noise of the passes of the profiling; empty for a table without one.

    Args:
        store: The table.
        quantile: Quantile over visits that is a target's estimate.
    """
    sweep = store.profiling()
    if sweep is None:
        return []
    by_target: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for number, target, visit in store.numbered_visits(sweep):
        by_target[target].append((number, min(visit.hot_ns) / 1e6))
    passes = store.passes(sweep)
    by_pass: dict[int, list[tuple[float, float]]] = defaultdict(list)  # slowdowns and weights
    for visits in by_target.values():
        estimate_ms = float(low_quantile(np.array([ms for _, ms in visits]), quantile))
        weight = (passes - visits[0][0]) / len(visits)  # a block of every fourth pass counts four
        for number, ms in visits:
            slowdown = ms / estimate_ms - 1 if estimate_ms else 0.0
            by_pass[number].append((slowdown, weight))
    ends = store.pass_ends(sweep)
    return [
        PassNoise(
            number + 1,
            ends[number],
            *_weighted_quantiles(by_pass[number], (_OUTER, 0.5, 1 - _OUTER)),
        )
        for number in sorted(by_pass)
    ]


def _weighted_quantiles(
    weighted: Sequence[tuple[float, float]], levels: Sequence[float]
) -> list[float]:
    """Quantiles of values with weights; with equal ones those of ``numpy.quantile``."""
    values, weights = np.array(sorted(weighted)).T
    middles = np.cumsum(weights) - weights / 2
    places = (middles - middles[0]) / max(float(middles[-1] - middles[0]), 1e-300)
    found: list[float] = np.interp(levels, places, values).tolist()
    return found


def later_sweeps(store: TableStore, quantile: float) -> list[LaterSweep]:
    """Networks of all sweeps but the profiling that have a finished pass, oldest first.

    Args:
        store: The table.
        quantile: Quantile over visits that is a network's estimate.
    """
    probes = store.networks("profile")
    then = store.estimates()
    later = store.networks(*LATER_ROLES)
    found = []
    for sweep, purpose in store.purposes().items():
        if purpose == "profile":
            continue
        samples = Samples.of(store.visits(sweep))
        now = samples.intervals(list(samples.hot_ms), quantile)
        if not now:
            continue
        drift = Drift.of_probes(probes, then, now)
        networks = {network: now[id_] for id_, network in later.items() if id_ in now}
        ended = max(store.pass_ends(sweep).values())
        found.append(LaterSweep(purpose, ended, networks, drift.ratio if drift else None))
    return found
