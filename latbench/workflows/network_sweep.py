"""Whole networks measured beside those of the profiling: what calibration and verification share.

The networks that were visited while profiling are visited again in the same shuffle. Their
latency now over then is the machine's drift, which tells a machine that changed from a table that
is wrong. The visits are stored in the table pass by pass, so that an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from time import monotonic

from latbench.blocks import Network
from latbench.cost import network_cost
from latbench.environment import Environment
from latbench.errors import MismatchError
from latbench.measure.lock import device_lock
from latbench.measure.samples import Interval, Samples
from latbench.measure.sweep import (
    Target,
    fraction_done,
    network_target,
    sweep_pass,
)
from latbench.profilers import Profiler
from latbench.progress import Progress, silent
from latbench.tables import LatencyTable, TableStore
from latbench.tables.estimation import Drift
from latbench.tables.records import Purpose

_VISITS_A_PASS = 2
_RESUME_WITHIN_S = 3600.0  # what was measured earlier says nothing of the machine as it is now


@dataclass(frozen=True)
class MeasuredNetworks:
    """Networks measured now.

    Attributes:
        measured: Latency of each as it is now, in the order asked.
        drift: Of the machine since the profiling; None without networks to tell it.
        floor: The networks against themselves, between two halves of this sweep.
    """

    measured: tuple[Interval, ...]
    drift: Drift | None
    floor: float | None


def require_device(profiler: Profiler, table: LatencyTable) -> Environment:
    """The present environment, if the table is of this device and machine.

    Raises:
        MismatchError: It is not.
    """
    if not profiler.profile.same_device(table.device):
        raise MismatchError(
            f"{table.path} is a table of {table.device.name}, not of {profiler.profile.name}"
        )
    now, then = profiler.environment(), table.environment
    ours, theirs = now.gpu.name if now.gpu else now.cpu, then.gpu.name if then.gpu else then.cpu
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
    purpose: Purpose,
    progress: Progress = silent,
) -> MeasuredNetworks:
    """Measure networks beside those of the profiling, or finish doing so.

    Args:
        profiler: Of the table's device.
        table: Where the visits are stored.
        networks: What to measure; none of them was visited while profiling.
        purpose: What the visits are stored as.
        progress: Told what is going on.

    Raises:
        MismatchError: The table is of another device or machine.
        DeviceBusyError: Another process measures on the device.
    """
    environment = require_device(profiler, table)
    protocol = profiler.profile.sweep
    passes = -(-protocol.verify_visits // _VISITS_A_PASS)
    with device_lock(profiler.profile.device), TableStore.open(table.path) as store:
        ids = store.add_networks(networks, purpose)
        probes = {
            id_: network
            for id_, network in store.networks("profile").items()
            if network in table.networks  # and not only registered, by a run that was interrupted
        }
        common = (sorted(ids), environment.differences(table.environment))
        detail = sha256(repr(common).encode()).hexdigest()
        sweep = store.begin_sweep(purpose, environment, detail=detail, within_s=_RESUME_WITHIN_S)
        targets = [
            network_target(id_, network, protocol, visits=_VISITS_A_PASS)
            for id_, network in [*zip(ids, networks, strict=True), *probes.items()]
        ]
        make_passes(profiler, store, sweep, targets, passes=passes, progress=progress)
        store.finish_sweep(sweep)
        samples = Samples.of(store.visits(sweep))
    intervals = samples.intervals([*ids, *probes], protocol.quantile)
    return MeasuredNetworks(
        measured=tuple(intervals[id_] for id_ in ids),
        drift=Drift.between(
            [table.networks[network].hot_ms for network in probes.values()],
            [intervals[id_].estimate_ms for id_ in probes],
            [network_cost(network).weight_bytes for network in probes.values()],
        ),
        floor=samples.split_half_noise(ids, protocol.quantile),
    )


def make_passes(
    profiler: Profiler,
    store: TableStore,
    sweep: int,
    targets: Sequence[Target],
    *,
    passes: int,
    limit_s: float = inf,
    progress: Progress,
) -> None:
    """Bring a sweep to a number of passes, each committed when it is done.

    Args:
        profiler: Of the device.
        store: Where the passes are kept.
        sweep: Which sweep.
        targets: What each pass visits.
        passes: How many passes the sweep shall have.
        limit_s: Wall time in s after which no pass is begun; one is always finished.
        progress: Told what is going on.
    """
    begin, first = monotonic(), store.passes(sweep)
    taken_s: list[float] = []
    for number in range(first, passes):
        if taken_s and monotonic() - begin + taken_s[-1] / 2 > limit_s:
            return

        def visited(done: int, total: int, number: int = number) -> None:
            elapsed_s, share = monotonic() - begin, done / total
            spent_s = elapsed_s - sum(taken_s)
            whole_s = spent_s / share
            by_passes_s = (passes - number) * whole_s - spent_s
            left_s = max(whole_s - spent_s, limit_s - elapsed_s)
            done_part = (number + share) / passes
            if left_s < by_passes_s:  # the limit ends it first
                done_part = fraction_done(elapsed_s, left_s)
            progress(done_part, f"pass {number + 1} of {passes}")

        record = sweep_pass(profiler, targets, number=number, on_visit=visited)
        store.add_pass(sweep, record)
        taken_s.append(record.seconds)
