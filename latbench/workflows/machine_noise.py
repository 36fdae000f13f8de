"""Noise of the machine while networks are compared: its own, and the work of other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from latbench.measure.load import LoadMeter, MachineLoad
from latbench.measure.samples import Samples
from latbench.measure.statistics import low_quantile
from latbench.measure.visit import Visit
from latbench.workflows.side_by_side import Floats, fastest_ms

_NOISY = 0.03  # split-half noise above which the machine counts as noisy
_OTHERS = 0.25  # processors that others use, above which the machine is loaded if none is idle
_IDLE = 0.1  # of all processors, below which none is idle


@dataclass(frozen=True)
class MachineNoise:
    """Noise of the machine during the sweep.

    Attributes:
        passes: Number of passes.
        split_half: Mean difference between latencies in two halves of the sweep; None if unknown.
        slowdown: Median call over the latency, minus 1, averaged over networks: what the machine's
            other work adds to an ordinary call.
        load: Processors that other processes used; None where the system does not count them.
        loaded: Whether they used more than a quarter of one, and left none idle.
        throttled: Reason why the processors were slower than usual at the end; None if they were
            not.
        verdict: ``quiet`` or ``noisy``.
    """

    passes: int
    split_half: float | None
    slowdown: float
    load: float | None
    loaded: bool
    throttled: str | None
    verdict: Literal["quiet", "noisy"]


def machine_noise(
    visits: Mapping[int, Sequence[Visit]],
    meter: LoadMeter,
    quantile: float,
    *,
    throttled: str | None,
) -> MachineNoise:
    """Noise during a sweep.

    Args:
        visits: Visits of every network, in the order of the passes.
        meter: Meter of the machine's load, created before the sweep.
        quantile: Low quantile over visits.
        throttled: Reason why the processors were slower than usual in the last pass.
    """
    samples = Samples.of((id_, visit) for id_, each in visits.items() for visit in each)
    split_half = samples.split_half_noise(visits, quantile)
    low_ms = low_quantile(fastest_ms(visits), quantile)
    median_ms = [np.median(calls_ms(each)) for each in visits.values()]
    slowdown = float(np.mean(median_ms / low_ms)) - 1
    load = meter.read()
    loaded = is_loaded(load)
    quiet = split_half is not None and split_half <= _NOISY and not loaded and not throttled
    return MachineNoise(
        passes=len(visits[0]),
        split_half=split_half,
        slowdown=slowdown,
        load=None if load is None else load.others,
        loaded=loaded,
        throttled=throttled,
        verdict="quiet" if quiet else "noisy",
    )


def is_loaded(load: MachineLoad | None) -> bool:
    """Whether others use more than a quarter of a processor and leave none idle."""
    return load is not None and load.others > _OTHERS and load.idle < _IDLE * load.cores


def calls_ms(visits: Sequence[Visit]) -> Floats:
    """All calls of some visits, in ms."""
    calls: Floats = np.concatenate([visit.hot_ns for visit in visits]) / 1e6
    return calls
