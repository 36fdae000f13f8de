"""Errors of a table at whole networks that are measured now; calibration on such networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from latbench.blocks import Network
from latbench.cost import network_cost
from latbench.errors import MismatchError
from latbench.measure.lock import held
from latbench.measure.samples import Interval
from latbench.measure.statistics import kendall_tau
from latbench.profilers import Profiler, profiler_of_table
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.tables import LatencyTable, Prediction, StoredFit, TableStore
from latbench.tables.estimation import work_out
from latbench.workflows.apart import DIED, run_apart
from latbench.workflows.model_tables import is_model_table, table_model
from latbench.workflows.network_sweep import (
    MeasuredNetworks,
    measure_held,
    measure_networks,
    present_environment,
)


@dataclass(frozen=True)
class VerifiedNetwork:
    """One network, predicted and measured.

    Attributes:
        error: Relative error, predicted / measured - 1.
        error_drift_corrected: Relative error after correction for the drift since the profiling.
    """

    predicted: Prediction
    measured: Interval
    error: float
    error_drift_corrected: float | None


@dataclass(frozen=True, repr=False)
class Verification(Result):
    """Result over all networks; errors are fractions.

    Attributes:
        mape: Mean absolute error as measured.
        bias: Mean signed error.
        max_error: Largest absolute error.
        kendall_tau: Rank correlation of predicted and measured; None below two networks.
        drift: Latency of the probes now over then, geometric mean; None without probes.
        mape_drift_corrected: ``mape`` after correction for the drift.
        max_error_drift_corrected: ``max_error`` after correction for the drift.
        coverage: Fraction of drift-corrected latencies inside their predicted intervals; None
            without intervals.
        interval_width: Mean relative width of the predicted intervals; None without intervals.
        spread: Largest measured latency divided by the smallest.
        floor: Split-half noise of the networks in this sweep.
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
    interval_width: float | None
    spread: float
    floor: float | None


def verify(
    profiler: Profiler,
    table: LatencyTable,
    networks: Sequence[Network],
    *,
    limit_s: float = inf,
    progress: Progress = silent,
) -> Verification:
    """Measure networks and compare their latencies with the table's predictions.

    Args:
        profiler: Profiler of the table's device.
        table: Table to verify.
        networks: Networks of the table's space or model. The prices must not be fitted on any of
            them; only the model itself, and networks that were verified before, are predicted by a
            fit without them.
        limit_s: Time to measure, in s; each network is visited in at least one pass.
        progress: Callback that reports the progress.

    Raises:
        MismatchError: The profiler belongs to another device, the prices were fitted on one of the
            networks, or a block of a network has no price.
        DeviceBusyError: Another process measures on the device.
    """
    with Phases(progress, [Phase("measure")]) as phases:
        phases["measure"](0.0, "preparing")
        predicted = [_predict(table, network) for network in networks]
        found = measure_networks(
            profiler,
            table,
            networks,
            purpose="verification",
            limit_s=limit_s,
            progress=phases["measure"],
        )
        return _summarise(networks, predicted, found)


def _predict(table: LatencyTable, network: Network) -> Prediction:
    """Prediction of a network by prices that were fitted without it."""
    if network not in table.networks:
        return table.predict(network)
    is_model = is_model_table(table) and network == table_model(table)
    if is_model or network in table.verified:
        return table.predict_left_out(network)
    raise MismatchError(
        "a network that the prices were fitted on cannot verify them: choose another one, or draw "
        "new ones by --random N"
    )


def calibrate(
    profiler: Profiler,
    table: LatencyTable,
    networks: Sequence[Network],
    *,
    limit_s: float = inf,
    progress: Progress = silent,
) -> StoredFit:
    """Measure more networks, and fit the prices on them and on those of the profiling.

    Earlier measurements are kept. Networks that are already in the table are used without being
    measured again.

    Args:
        profiler: Profiler of the table's device.
        table: Table to calibrate.
        networks: Networks of the table's space.
        limit_s: Time to measure, in s; each network is visited in at least one pass.
        progress: Callback that reports the progress.

    Returns:
        The fit that was stored.

    Raises:
        MismatchError: The table belongs to another device, machine or version of the runtime, or
            does not price a network.
        DeviceBusyError: Another process measures on the device.
    """
    parts = [Phase("measure", share=10.0), Phase("fit")]
    with Phases(progress, parts) as phases, held(profiler):
        phases["measure"](0.0, "preparing")
        environment = present_environment(profiler, table)
        differences = environment.differences(table.environment)
        if differences:
            raise MismatchError(
                f"{table.path} was measured otherwise ({'; '.join(differences)}), and one fit is "
                "not made on both: profile into another file"
            )
        for network in networks:
            table.predict(network)
        known = {*table.networks, *_calibrated(table)}
        fresh = [network for network in networks if network not in known]
        if fresh:
            measure_held(
                profiler,
                table,
                fresh,
                environment=environment,
                purpose="calibration",
                limit_s=limit_s,
                progress=phases["measure"],
            )
        phases["fit"](0.0, "fitting prices")
        with TableStore.open(table.path) as store:
            return work_out(store, profiler.profile.sweep)


def _calibrated(table: LatencyTable) -> set[Network]:
    """Networks that a calibration has measured, also if it was stopped before its fit."""
    with TableStore.open(table.path) as store:
        by_id = store.networks("calibration")
        done = store.sweeps("calibration")
        return {by_id[id_] for sweep in done for id_, _ in store.visits(sweep) if id_ in by_id}


def verify_apart(
    path: Path,
    networks: Sequence[Network],
    *,
    limit_s: float = inf,
    progress: Progress = silent,
) -> Verification:
    """Run ``verify`` on the table at ``path`` in a separate process.

    Use it after a training: the threads and the memory of a training slow down measurements in the
    same process (a network of 0.63 ms took 0.70 ms).

    Raises:
        LatbenchError: As for ``verify``; the error of the measuring process is raised here.
        OSError: A file cannot be read or written, for example on a full disk.
        sqlite3.Error: The table cannot be read or written.
    """
    return run_apart(_verify_at, path, networks, limit_s, died=DIED, progress=progress)


def _verify_at(
    path: Path, networks: Sequence[Network], limit_s: float, progress: Progress
) -> Verification:
    table = LatencyTable.open(path)
    profiler = profiler_of_table(table.device)
    return verify(profiler, table, networks, limit_s=limit_s, progress=progress)


def _summarise(
    networks: Sequence[Network], predicted: Sequence[Prediction], found: MeasuredNetworks
) -> Verification:
    drift = found.drift
    rows = []
    then_ms = []  # measured latencies, corrected for the drift
    for network, prediction, measured in zip(networks, predicted, found.measured, strict=True):
        now_ms = measured.estimate_ms
        weight_bytes = network_cost(network).weight_bytes
        then_ms.append(drift.then_ms(now_ms, weight_bytes) if drift else now_ms)
        corrected = prediction.latency_ms / then_ms[-1] - 1 if drift else None
        rows.append(
            VerifiedNetwork(prediction, measured, prediction.latency_ms / now_ms - 1, corrected)
        )
    errors = np.array([row.error for row in rows])
    corrected_errors = [
        abs(row.error_drift_corrected) for row in rows if row.error_drift_corrected is not None
    ]
    bounded = [
        (p.low_ms, m, p.high_ms, p.latency_ms)
        for p, m in zip(predicted, then_ms, strict=True)
        if p.low_ms is not None and p.high_ms is not None
    ]
    measured_ms = [m.estimate_ms for m in found.measured]
    return Verification(
        networks=tuple(rows),
        mape=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        max_error=float(np.abs(errors).max()),
        kendall_tau=kendall_tau([p.latency_ms for p in predicted], measured_ms),
        drift=drift.ratio if drift else None,
        mape_drift_corrected=float(np.mean(corrected_errors)) if corrected_errors else None,
        max_error_drift_corrected=max(corrected_errors) if corrected_errors else None,
        coverage=float(np.mean([low <= m <= high for low, m, high, _ in bounded]))
        if bounded
        else None,
        interval_width=float(np.mean([(high - low) / mid for low, _, high, mid in bounded]))
        if bounded
        else None,
        spread=max(measured_ms) / min(measured_ms),
        floor=found.floor,
    )
