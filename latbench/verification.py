"""Verification: whole networks measured against what the table says of them.

The table's calibration networks are visited in the same shuffle. Their latency now over their
latency then is the machine's drift, which tells a machine that changed from a table that is
wrong.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from latbench.blocks import Network
from latbench.environment import current_environment
from latbench.errors import LatbenchError, MismatchError, RuntimeFailure
from latbench.measure.lock import device_lock
from latbench.measure.samples import Interval, Samples
from latbench.measure.statistics import kendall_tau
from latbench.measure.sweep import network_target, sweep_pass
from latbench.profilers import Profiler, make_profiler
from latbench.tables import LatencyTable, Prediction

_VISITS_A_PASS = 2


@dataclass(frozen=True)
class VerifiedNetwork:
    """One network, predicted and measured.

    Attributes:
        error: predicted / measured - 1.
        error_drift_corrected: The same with the machine's drift since profiling taken out.
    """

    predicted: Prediction
    measured: Interval
    error: float
    error_drift_corrected: float | None


@dataclass(frozen=True)
class Verification:
    """The verdict over all networks; errors are fractions.

    Attributes:
        mape: Mean absolute error as measured.
        bias: Mean signed error.
        max_error: Largest absolute error.
        kendall_tau: Rank correlation of predicted and measured; None below two networks.
        drift: Latency of the probes now over then, geometric mean; None without probes.
        mape_drift_corrected: ``mape`` with the drift taken out.
        max_error_drift_corrected: ``max_error`` with the drift taken out.
        coverage: Fraction of measured latencies inside their predicted interval.
        floor: The networks against themselves, between two halves of this sweep.
    """

    networks: tuple[VerifiedNetwork, ...]
    mape: float
    bias: float
    max_error: float
    kendall_tau: float | None
    drift: float | None
    mape_drift_corrected: float | None
    max_error_drift_corrected: float | None
    coverage: float | None
    floor: float | None


def verify(
    profiler: Profiler,
    table: LatencyTable,
    networks: Sequence[Network],
    *,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Verification:
    """Measure networks and compare with the table.

    Args:
        profiler: Of the table's device.
        table: What to verify.
        networks: Networks of the table's space, none of which the prices were fitted on.
        progress: Told what is going on.

    Raises:
        MismatchError: The profiler is of another device, a network was fitted on, or one of its
            blocks has no price.
        DeviceBusyError: Another process measures on the device.
    """
    if not profiler.profile.same_device(table.device):
        raise MismatchError(
            f"{table.path} is a table of {table.device.name}, not of {profiler.profile.name}"
        )
    now = current_environment(profiler.versions())
    if now.cpu != table.environment.cpu:
        raise MismatchError(
            f"{table.path} was measured on {table.environment.cpu}, this is {now.cpu}: profile "
            "this machine first"
        )
    fitted = set(table.networks)
    if any(network in fitted for network in networks):
        raise MismatchError(
            "a network that the prices were fitted on cannot verify them: choose another seed"
        )
    predicted = [table.predict(network) for network in networks]
    probes = list(table.networks)
    samples = _measure(profiler, [*networks, *probes], progress)
    quantile = profiler.profile.sweep.quantile
    measured = samples.intervals(range(len(networks)), quantile)
    probed = samples.intervals(range(len(networks), len(networks) + len(probes)), quantile)
    drift = _drift([table.networks[p].hot_ms for p in probes], list(probed.values()))
    rows = []
    for index, prediction in enumerate(predicted):
        ratio = prediction.latency_ms / measured[index].estimate_ms
        corrected = None if drift is None else ratio * drift - 1
        rows.append(VerifiedNetwork(prediction, measured[index], ratio - 1, corrected))
    floor = samples.floor(range(len(networks)), quantile)
    return _summarise(rows, drift=drift, floor=floor)


def verify_apart(
    path: Path,
    networks: Sequence[Network],
    *,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Verification:
    """``verify`` the table at ``path`` in a process of its own.

    For callers that have trained: threads and memory of a training slow down what is measured
    in the same process (a network of 0.63 ms took 0.70 ms).

    Raises:
        LatbenchError: As ``verify``.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_verify_child, args=(theirs, path, networks))
    process.start()
    theirs.close()
    try:
        while True:
            message = ours.recv()
            if isinstance(message, Verification):
                return message
            if isinstance(message, LatbenchError):
                raise message
            progress(*message)
    except EOFError:
        raise RuntimeFailure("the measuring process ended before it was done") from None
    finally:
        process.terminate()
        process.join()
        ours.close()


def _verify_child(pipe: Connection, path: Path, networks: Sequence[Network]) -> None:
    """What ``verify_apart`` runs: sends progress, then the result or the error."""
    try:
        table = LatencyTable.open(path)
        profiler = make_profiler(table.device)
        pipe.send(verify(profiler, table, networks, progress=lambda *told: pipe.send(told)))
    except LatbenchError as error:
        pipe.send(LatbenchError(error.message))


def _measure(
    profiler: Profiler, networks: Sequence[Network], progress: Callable[[float, str], None]
) -> Samples:
    protocol = profiler.profile.sweep
    targets = [
        network_target(index, network, protocol, visits=_VISITS_A_PASS)
        for index, network in enumerate(networks)
    ]
    passes = -(-protocol.verify_visits // _VISITS_A_PASS)
    samples = Samples()
    with device_lock(profiler.profile.device):
        for number in range(passes):

            def visited(done: int, total: int, number: int = number) -> None:
                words = f"pass {number + 1} of {passes}"
                progress((number + done / total) / passes, words)

            record = sweep_pass(profiler, targets, number=number, on_visit=visited)
            samples.add(record.visits)
    return samples


def _drift(then_ms: Sequence[float], now: Sequence[Interval]) -> float | None:
    """Latency of the probes now over then, geometric mean; None without probes."""
    if not now:
        return None
    ratios = [new.estimate_ms / old for new, old in zip(now, then_ms, strict=True)]
    return float(np.exp(np.log(ratios).mean()))


def _summarise(
    rows: Sequence[VerifiedNetwork], *, drift: float | None, floor: float | None
) -> Verification:
    errors = np.array([row.error for row in rows])
    corrected = [
        abs(row.error_drift_corrected) for row in rows if row.error_drift_corrected is not None
    ]
    inside = [
        row.predicted.low_ms <= row.measured.estimate_ms <= row.predicted.high_ms
        for row in rows
        if row.predicted.low_ms is not None and row.predicted.high_ms is not None
    ]
    return Verification(
        networks=tuple(rows),
        mape=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        max_error=float(np.abs(errors).max()),
        kendall_tau=kendall_tau(
            [row.predicted.latency_ms for row in rows],
            [row.measured.estimate_ms for row in rows],
        ),
        drift=drift,
        mape_drift_corrected=float(np.mean(corrected)) if corrected else None,
        max_error_drift_corrected=max(corrected) if corrected else None,
        coverage=float(np.mean(inside)) if inside else None,
        floor=floor,
    )
