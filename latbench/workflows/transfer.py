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

from latbench.blocks import BlockSpec, Network
from latbench.errors import MismatchError
from latbench.measure.lock import held
from latbench.measure.samples import Samples
from latbench.profilers import Profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.tables import Estimate, LatencyTable, StoredFit, TableStore
from latbench.tables.alignment import Alignment
from latbench.tables.estimation import as_estimate, work_out
from latbench.workflows.predicted_blocks import (
    PredictedBlocks,
    features_of,
    predict_blocks,
    spread_rows,
)
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
        features = features_of(list(old), known)
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
            hot, cold = _predicted(store, sweep, old, features, quantile=protocol.quantile)
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
    return [many[i] for i in spread_rows(features, blocks)] + rare


def _predicted(
    store: TableStore,
    sweep: int,
    old: dict[BlockSpec, Estimate],
    features: Floats,
    *,
    quantile: float,
) -> tuple[PredictedBlocks, PredictedBlocks]:
    """Hot and cold latencies on the new device, from the measured ones among ``old``."""
    samples = Samples.of(store.visits(sweep))
    ids = {spec: id_ for id_, spec in store.blocks().items()}
    measured = {spec: ids[spec] for spec in old if ids.get(spec) in samples.hot_ms}
    hot, cold = (
        predict_blocks(old, features, _by_block(samples, measured, quantile, cold=cold), cold=cold)
        for cold in (False, True)
    )
    return hot, cold


def _store_predictions(
    store: TableStore, source: LatencyTable, hot: PredictedBlocks, *, cold: PredictedBlocks
) -> None:
    """Store the predicted latencies, and the source's width classes if this device has none."""
    store.add_blocks(hot.latencies)
    own = store.alignment
    if source.curves.alignment is not None and (own is None or own.error is None):
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
