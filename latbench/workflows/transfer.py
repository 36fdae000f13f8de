"""Transfer: a table for a new device, from another device's table and a few measured blocks.

The latencies of a block on two devices differ by a factor that depends on what limits the block.
Forty blocks with different features are measured on the new device, together with whole networks. A
ridge regression of the logarithm of the ratio new / old predicts the other blocks. Every
transferred estimate has a 95 % interval, which comes from the errors at measured blocks left out of
the regression. A transferred estimate is marked noisy until `profile` has measured the block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec, Network, block_width
from latbench.cost import block_cost
from latbench.errors import MismatchError
from latbench.measure.lock import held
from latbench.measure.samples import Interval, Samples
from latbench.measure.statistics import conformal_half_width
from latbench.profilers import Profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.tables import Estimate, LatencyTable, StoredFit, TableStore
from latbench.tables.alignment import Alignment
from latbench.tables.estimation import as_estimate, work_out
from latbench.workflows.profiled_table import (
    begin_profiling,
    join_networks,
    open_or_create,
    profile_targets,
)
from latbench.workflows.recorded_passes import make_passes

Floats = NDArray[np.float64]

BLOCKS = 40  # number of blocks of frequent kinds to measure; blocks of rare kinds are all measured
_MANY = 16  # blocks from which a kind is frequent; a space has fewer stems and heads than this
_PENALTIES = (0.1, 1.0, 10.0, 100.0)  # ridge penalties; the last leaves almost one common factor
_COVERAGE = 0.95  # share of transferred latencies that lie inside their intervals


@dataclass(frozen=True, repr=False)
class TransferResult(Result):
    """Summary of a transfer.

    Attributes:
        blocks: Number of blocks with an estimate.
        measured: Number of blocks measured on the new device.
        noisy: Number of noisy blocks; every transferred one is.
        seconds: Wall time of this run.
        left_out_error: Mean absolute error of measured blocks left out of the regression.
        half_width: Relative half width of the 95 % interval of transferred latencies.
        fit: Prices, fitted on networks measured on the new device.
        passes: Number of passes in the table, including those of earlier runs.
        complete: Whether the table has as many passes as the protocol asks for. If not, the time
            limit ended the run.
    """

    blocks: int
    measured: int
    noisy: int
    seconds: float
    left_out_error: float
    half_width: float
    fit: StoredFit
    passes: int
    complete: bool

    @property
    def interrupted(self) -> bool:
        """Always False: an interrupted transfer raises instead of returning a result."""
        return False

    def as_dict(self) -> dict[str, Any]:
        """Counts and errors as plain JSON values, with all keys of a profiling."""
        return {
            "blocks": self.blocks,
            "measured": self.measured,
            "interpolated": 0,
            "noisy": self.noisy,
            "seconds": self.seconds,
            "heldout_error": None,
            "passes": self.passes,
            "complete": self.complete,
            "left_out_error": self.left_out_error,
            "half_width": self.half_width,
            "loo_error": self.fit.price.loo_error,
        }


# long because it has all steps in their order
def transfer(
    profiler: Profiler,
    path: Path,
    source: LatencyTable,
    *,
    networks: Sequence[Network],
    blocks: int = BLOCKS,
    time_limit_s: float = inf,
    progress: Progress = silent,
) -> TransferResult:
    """Fill the table at ``path`` for the profiler's device from another device's table.

    An interrupted transfer keeps its finished passes; the same call continues it.

    Args:
        profiler: Profiler of the new device.
        path: File of the new table.
        source: Table of the same space on another device.
        networks: Networks to fit prices on, made of blocks that ``source`` prices.
        blocks: Number of blocks to measure among the kinds that the space has many blocks of.
        time_limit_s: Wall time of this run, in s; at least one pass is always finished.
        progress: Callback that reports the progress.

    Raises:
        MismatchError: The source has too few measured blocks, or the table at ``path`` belongs to
            another device, machine, version of the runtime or space.
        DeviceBusyError: Another process measures on the device.
    """
    begin = monotonic()
    parts = [Phase("measure", share=10.0), Phase("predict")]
    with Phases(progress, parts) as phases:
        phases["measure"](0.0, "choosing blocks")
        known, old = _transferable(source, blocks)
        features = _features(list(old), known)
        chosen = _chosen(known, list(old), features, blocks=blocks)
        protocol = profiler.profile.sweep
        with (
            held(profiler),
            open_or_create(path, profiler, source.space) as store,
        ):
            sweep = begin_profiling(store, profiler)
            store.add_blocks(chosen)
            join_networks(store, networks)
            make_passes(
                profiler,
                store,
                sweep,
                profile_targets(store, protocol, blocks=set(chosen)),
                passes=protocol.min_passes,
                limit_s=time_limit_s,
                progress=phases["measure"],
            )
            predicting = phases["predict"]
            predicting(0.0, "predicting the other blocks")
            hot, cold = _predict_blocks(store, sweep, old, features, quantile=protocol.quantile)
            predicting(0.3, "storing the predictions")
            made = store.passes(sweep)
            _store_predictions(store, source, hot, cold=cold)
            predicting(0.6, "fitting prices")
            fit = work_out(store, protocol)
            return TransferResult(
                blocks=len(known),
                measured=len(chosen),
                noisy=sum(each.noisy for each in store.estimates(store.blocks()).values()),
                seconds=monotonic() - begin,
                left_out_error=hot.left_out_error,
                half_width=float(np.expm1(max(hot.half_width, cold.half_width))),
                fit=fit,
                passes=made,
                complete=made >= protocol.min_passes,
            )


def _transferable(
    source: LatencyTable, blocks: int
) -> tuple[dict[BlockSpec, Estimate], dict[BlockSpec, Estimate]]:
    """Measured estimates of the source, and those among them of frequent kinds of block.

    Raises:
        MismatchError: The source has too few of these blocks.
    """
    known = {
        spec: estimate
        for spec, estimate in source.estimates.items()
        if estimate.cold_ms and estimate.visits and source.origin is None
    }
    kinds = Counter(type(spec) for spec in known)
    many = [spec for spec in known if kinds[type(spec)] >= _MANY]
    if len(many) < 2 * blocks:
        raise MismatchError(
            f"{source.path} has {len(many)} measured blocks to transfer from, too few: at least "
            f"{2 * blocks} are needed, and those that were transferred themselves do not count"
        )
    return known, {spec: known[spec] for spec in many}


def _chosen(
    known: dict[BlockSpec, Estimate], many: Sequence[BlockSpec], features: Floats, *, blocks: int
) -> list[BlockSpec]:
    """Blocks to measure: some that differ among the frequent kinds, and all of rare kinds."""
    frequent = set(many)
    rare = [spec for spec in known if spec not in frequent]
    return [many[i] for i in _spread(features, blocks)] + rare


@dataclass(frozen=True)
class _Predicted:
    """Latencies predicted for the new device.

    Attributes:
        latencies: Latency of every block with its 95 % interval.
        left_out_error: Mean absolute error of measured blocks left out of the regression.
        half_width: Half width of the intervals, of the logarithm of a latency.
    """

    latencies: dict[BlockSpec, Interval]
    left_out_error: float
    half_width: float


def _predict_blocks(
    store: TableStore,
    sweep: int,
    old: dict[BlockSpec, Estimate],
    features: Floats,
    *,
    quantile: float,
) -> tuple[_Predicted, _Predicted]:
    """Hot and cold latencies on the new device, from the measured ones among ``old``."""
    samples = Samples.of(store.visits(sweep))
    ids = {spec: id_ for id_, spec in store.blocks().items()}
    measured = {spec: ids[spec] for spec in old if ids.get(spec) in samples.hot_ms}
    hot, cold = (
        _predict(old, features, _by_block(samples, measured, quantile, cold=cold), cold=cold)
        for cold in (False, True)
    )
    return hot, cold


def _store_predictions(
    store: TableStore, source: LatencyTable, hot: _Predicted, *, cold: _Predicted
) -> None:
    """Store the predicted latencies, and the width classes of the source as not yet scanned."""
    store.add_blocks(hot.latencies)
    if source.curves.alignment is not None:
        store.record_alignment(Alignment(source.curves.alignment.classes, error=None))
    store.set_transferred(
        {
            spec: as_estimate(interval, cold.latencies[spec], visits=0)
            for spec, interval in hot.latencies.items()
        }
    )


def _by_block(
    samples: Samples, measured: dict[BlockSpec, int], quantile: float, *, cold: bool
) -> dict[BlockSpec, float]:
    """Measured latencies in ms, from the ids of the measured blocks."""
    now = samples.intervals(measured.values(), quantile, cold=cold)
    return {spec: now[id_].estimate_ms for spec, id_ in measured.items()}


def _predict(
    old: dict[BlockSpec, Estimate],
    features: Floats,
    measured_ms: dict[BlockSpec, float],
    *,
    cold: bool,
) -> _Predicted:
    """Predict latencies on the new device from those of measured blocks.

    Args:
        old: Estimates of all blocks on the old device.
        features: Features of the same blocks, ``(blocks, features)``.
        measured_ms: Latencies of some of the blocks on the new device.
        cold: Whether the latencies are those of cold calls.
    """
    old_ms = {spec: _latency(estimate, cold=cold) for spec, estimate in old.items()}
    rows = [row for row, spec in enumerate(old) if spec in measured_ms]
    new, before = (np.array([ms[s] for s in measured_ms]) for ms in (measured_ms, old_ms))
    ratios, left_out = _regress(features[rows], np.log(new / before), features)
    half_width = conformal_half_width(left_out, _COVERAGE)
    if half_width is None:  # too few blocks for a quantile: take the largest error
        half_width = float(np.abs(left_out).max())
    latencies = {}
    for spec, ratio in zip(old, np.exp(ratios), strict=True):
        middle_ms = old_ms[spec] * float(ratio)
        latencies[spec] = Interval(
            middle_ms, middle_ms * np.exp(-half_width), middle_ms * np.exp(half_width)
        )
    return _Predicted(latencies, float(np.mean(np.abs(np.expm1(left_out)))), half_width)


def _features(specs: Sequence[BlockSpec], known: dict[BlockSpec, Estimate]) -> Floats:
    """Features of every block, ``(blocks, features)``, scaled to mean 0 and deviation 1."""
    rows = []
    for spec in specs:
        cost, e = block_cost(spec), known[spec]
        assert e.cold_ms is not None
        sizes = (
            cost.macs,
            cost.weight_bytes,
            cost.activation_bytes,
            e.hot_ms,
            e.cold_ms / e.hot_ms,
            cost.macs / cost.activation_bytes,
        )
        flags = (
            getattr(spec, "kernel", 0),
            getattr(spec, "stride", 1),
            float(bool(getattr(spec, "se_channels", 0))),
            float(getattr(spec, "activation", "") == "relu"),
            float((block_width(spec) or 0) % 4 == 0),
        )
        rows.append([*np.log(sizes), *flags])
    table = np.array(rows)
    spread = table.std(axis=0)
    spread[spread == 0] = 1.0
    result: Floats = (table - table.mean(axis=0)) / spread
    return result


def _spread(features: Floats, count: int) -> list[int]:
    """Choose rows that differ: each next row is the farthest from those chosen so far."""
    chosen = [int(np.abs(features).sum(axis=1).argmin())]
    distance = np.full(len(features), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.abs(features - features[chosen[-1]]).sum(axis=1))
        chosen.append(int(distance.argmax()))
    return chosen


def _regress(features: Floats, wanted: Floats, everywhere: Floats) -> tuple[Floats, Floats]:
    """Ridge regression with an intercept, at the penalty with the least leave-one-out error.

    Args:
        features: Features of the measured blocks, ``(measured, features)``.
        wanted: Values to predict, ``(measured,)``.
        everywhere: Features of all blocks, ``(blocks, features)``.

    Returns:
        Predicted values of all blocks, and the errors at measured blocks left out.
    """

    def predict(x: Floats, y: Floats, at: Floats, penalty: float) -> Floats:
        mean = y.mean()
        centre = x.mean(axis=0)
        gram = (x - centre).T @ (x - centre) + penalty * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, (x - centre).T @ (y - mean))
        result: Floats = mean + (at - centre) @ weights
        return result

    best: tuple[float, float, Floats] | None = None
    for penalty in _PENALTIES:
        errors = np.empty_like(wanted)
        for i in range(len(wanted)):
            rest = np.arange(len(wanted)) != i
            errors[i] = predict(features[rest], wanted[rest], features[i], penalty) - wanted[i]
        mean = float(np.abs(errors).mean())
        if best is None or mean < best[0]:
            best = (mean, penalty, errors)
    assert best is not None
    return predict(features, wanted, everywhere, best[1]), best[2]


def _latency(estimate: Estimate, *, cold: bool) -> float:
    return estimate.cold_or_hot_ms if cold else estimate.hot_ms
