"""Measurement of whole networks, which calibration and verification share.

The networks of the profiling are visited again in the same shuffled passes. Their latency now over
then is the drift of the machine. It separates a change of the machine from an error of the table.
The visits are stored in the table pass by pass, so an interrupted run can be continued.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from statistics import fmean
from typing import Literal

from latbench.blocks import Network
from latbench.environment import Environment
from latbench.errors import MismatchError
from latbench.measure.lock import held
from latbench.measure.samples import Interval, Samples
from latbench.measure.visiting import network_target
from latbench.profilers import Profiler
from latbench.progress import Progress, silent
from latbench.tables import LatencyTable, TableStore
from latbench.tables.estimation import Drift
from latbench.workflows.recorded_passes import make_passes

_VISITS_A_PASS = 2
_SHORT_MS, _SHORT_TIMES = 2.0, 2.5
_RESUME_WITHIN_S = 3600.0  # older visits do not describe the present state of the machine


@dataclass(frozen=True)
class MeasuredNetworks:
    """Networks measured now.

    Attributes:
        measured: Present latency of each network, in the order of the request.
        drift: Drift of the machine since the profiling; None if the profiling had no networks.
        floor: Split-half noise of the networks in this sweep.
    """

    measured: tuple[Interval, ...]
    drift: Drift | None
    floor: float | None


def require_device(profiler: Profiler, table: LatencyTable) -> None:
    """Check that a table belongs to this device and machine; hold the device while reading it.

    Raises:
        MismatchError: The table belongs to another device or machine.
        DeviceBusyError: Another process measures on the device.
    """
    with held(profiler):
        present_environment(profiler, table)


def present_environment(profiler: Profiler, table: LatencyTable) -> Environment:
    """Present environment, after a check that the table belongs to this device and machine.

    The caller holds the device, because a GPU's clock is read while the GPU is kept at work.

    Raises:
        MismatchError: The table belongs to another device or machine.
    """
    if not profiler.profile.same_device(table.device):
        raise MismatchError(
            f"{table.path} is a table of {table.device.name}, not of {profiler.profile.name}"
        )
    now, then = profiler.environment(), table.environment
    ours, theirs = now.chip, then.chip
    if ours != theirs:
        raise MismatchError(
            f"{table.path} was measured on {theirs}, this is {ours}: profile this machine first"
        )
    return now


def measure_networks(
    profiler: Profiler,
    table: LatencyTable,
    networks: Sequence[Network],
    *,
    purpose: Literal["calibration", "verification"],
    limit_s: float = inf,
    progress: Progress = silent,
) -> MeasuredNetworks:
    """Measure networks together with those of the profiling, or continue such a measurement.

    Args:
        profiler: Profiler of the table's device.
        table: Table that stores the visits.
        networks: Networks to measure. One that was visited in the profiling is no probe of the
            drift.
        purpose: Purpose of the sweep.
        limit_s: Time to measure, in s; each network is visited in at least one pass.
        progress: Callback that reports the progress.

    Raises:
        MismatchError: The table belongs to another device or machine.
        DeviceBusyError: Another process measures on the device.
    """
    with held(profiler):
        environment = present_environment(profiler, table)
        return measure_held(
            profiler,
            table,
            networks,
            environment=environment,
            purpose=purpose,
            limit_s=limit_s,
            progress=progress,
        )


def measure_held(
    profiler: Profiler,
    table: LatencyTable,
    networks: Sequence[Network],
    *,
    environment: Environment,
    purpose: Literal["calibration", "verification"],
    limit_s: float,
    progress: Progress,
) -> MeasuredNetworks:
    """As ``measure_networks``, for a caller that holds the device and has read ``environment``."""
    protocol = profiler.profile.sweep
    passes = -(-_visits(profiler, table, networks) // _VISITS_A_PASS)
    with TableStore.open(table.path) as store:
        ids = store.add_networks(networks, purpose)
        probes = {
            id_: network
            for id_, network in store.networks("profile").items()
            # an interrupted run may have registered more
            if network in table.networks and id_ not in ids
        }
        common = (sorted(ids), environment.differences(table.environment))
        detail = sha256(repr(common).encode()).hexdigest()
        sweep = store.begin_sweep(purpose, environment, detail=detail, within_s=_RESUME_WITHIN_S)
        targets = [
            network_target(id_, network, protocol, visits=_VISITS_A_PASS)
            for id_, network in [*zip(ids, networks, strict=True), *probes.items()]
        ]
        make_passes(
            profiler, store, sweep, targets, passes=passes, limit_s=limit_s, progress=progress
        )
        store.finish_sweep(sweep)
        samples = Samples.of(store.visits(sweep))
    intervals = samples.intervals([*ids, *probes], protocol.quantile)
    return MeasuredNetworks(
        measured=tuple(intervals[id_] for id_ in ids),
        drift=Drift.of_probes(
            probes, {id_: table.networks[network] for id_, network in probes.items()}, intervals
        ),
        floor=samples.split_half_noise(ids, protocol.quantile),
    )


def _visits(profiler: Profiler, table: LatencyTable, networks: Sequence[Network]) -> int:
    """Number of visits to each network; more to short ones on a processor.

    The weights of a network of 1 ms survive in the shared caches in one visit and not in the next,
    so its low quantile needs more of them: 24 networks at 32 px were 1.2 % off with 60 visits and
    0.8 % with 150. Networks that the table does not price are not counted.
    """
    visits = profiler.profile.sweep.verify_visits
    predicted_ms = []
    for network in networks:
        with suppress(MismatchError):
            predicted_ms.append(table.predict(network).latency_ms)
    mean_ms = fmean(predicted_ms) if predicted_ms else inf
    is_short = profiler.profile.device == "cpu" and mean_ms < _SHORT_MS
    return round(_SHORT_TIMES * visits) if is_short else visits
