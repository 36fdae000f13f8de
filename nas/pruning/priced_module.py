"""Latencies of a module at all widths of its groups: measured into a table, or read from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latbench.errors import InvalidValueError
from latbench.measure.samples import Samples
from latbench.models import OnnxModel
from latbench.models.segments import cut
from latbench.models.torch_modules import read_module
from latbench.profilers import Profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.tables import LatencyTable, TableStore
from latbench.tables.estimation import can_work_out, work_out
from latbench.workflows import profiling
from latbench.workflows.fused_segments import joined_places
from latbench.workflows.model_tables import SEARCH, model_label, pieces_to_price
from latbench.workflows.network_sweep import require_device
from latbench.workflows.pass_plan import PassPlan
from latbench.workflows.profiled_table import TableContents
from nas.pruning.choice import PricedWidths
from nas.pruning.groups import PrunableGroup, PrunableModule
from nas.pruning.width_grid import Grid, Variants, WidthGrid, crowded, make_grid, touched_places

_MEASURED = 0.8  # of the time limit, after which a profiling was not interrupted


def price_widths(
    prunable: PrunableModule,
    model: OnnxModel,
    profiler: Profiler,
    path: Path,
    *,
    limit_s: float,
    progress: Progress = silent,
) -> PricedWidths:
    """Measure what the table at ``path`` does not price yet, and price all widths.

    A profiling goes on if it was interrupted before four fifths of its time and has not converged.

    Args:
        prunable: The module with its groups.
        model: ONNX model of the module.
        profiler: Profiler of the device.
        path: Table of the module's segments; created if it does not exist.
        limit_s: Wall time of the profiling.
        progress: Callback that reports the progress.

    Raises:
        MismatchError: The table is of another device, machine or network.
        InvalidValueError: The exported module has other channels than the module, or too many of
            them meet in each segment.
        DeviceBusyError: Another process measures on the device.
        KeyboardInterrupt: The profiling was interrupted; the table keeps what was measured.
    """
    pieces = cut(model)
    parts = [Phase("join", seconds=SEARCH * limit_s), Phase("profile", seconds=limit_s)]
    with Phases(progress, parts) as phases:
        joined = pieces_to_price(profiler, path, pieces, limit_s=limit_s, progress=phases["join"])
        grid = _grid(prunable, joined_places(pieces, joined))
        left_s = _left_s(path, grid, profiler, limit_s)
        if left_s:
            count = profiler.profile.sweep.networks
            contents = TableContents(
                model_label(pieces), grid.segments, grid.networks[:count], grid.networks
            )
            found = profiling.profile(
                profiler, path, contents, time_limit_s=left_s, progress=phases["profile"]
            )
            if found.interrupted:
                raise KeyboardInterrupt
        return PricedWidths.of(grid, LatencyTable.open(path))


def _left_s(path: Path, grid: WidthGrid, profiler: Profiler, limit_s: float) -> float:
    """Time left for the profiling, in s: all of it, the rest after an interruption, or none."""
    if not path.exists():
        return limit_s
    with TableStore.open(path) as store:
        if store.fit() is None and not can_work_out(store):
            return limit_s  # killed in its first pass
    table = LatencyTable.open(path)
    if not all(segment in table for segment in grid.segments):
        return limit_s  # the profiling that follows checks the device
    require_device(profiler, table)
    with TableStore.open(path) as store:
        sweep = store.profiling()
        if sweep is None:
            return limit_s
        spent_s = store.timing(sweep)["seconds"]
        if spent_s >= _MEASURED * limit_s or _has_enough(store, sweep, profiler, grid):
            work_out(store, profiler.profile.sweep)  # it may have been killed before
            return 0.0
    return limit_s - spent_s


def _has_enough(store: TableStore, sweep: int, profiler: Profiler, grid: WidthGrid) -> bool:
    """Whether a profiling ended before its time because it had converged, or at its last pass."""
    protocol = profiler.profile.sweep
    plan = PassPlan(store, sweep, protocol=protocol, typical=grid.networks)
    samples = Samples.of(store.visits(sweep))
    return plan.network_passes(samples) >= protocol.max_passes or plan.is_converged(samples)


def _grid(prunable: PrunableModule, joined: tuple[int, ...]) -> WidthGrid:
    """All widths that are measured; groups of segments that have too many keep theirs."""
    groups = prunable.groups
    while True:
        variants = _variants(
            prunable, {group: Grid.of(group.width, segments=()) for group in groups}
        )
        touched = touched_places(variants, groups, joined)
        kept = crowded(touched)
        if not kept:
            break
        groups = tuple(group for group in groups if group not in kept)
        if not groups:
            raise InvalidValueError(
                "all channels that could be removed meet in segments with more than six groups, "
                "whose latency cannot be measured at all widths: prune another network"
            )
    grids = {
        group: Grid.of(group.width, segments=[len(each) for each in touched if group in each])
        for group in groups
    }
    return make_grid(variants, grids, touched, joined)


def _variants(prunable: PrunableModule, grids: Mapping[PrunableGroup, Grid]) -> Variants:
    least = {group: grid.candidates[0] for group, grid in grids.items()}
    removed = {group: range(group.width - width) for group, width in least.items()}
    narrowest = prunable.pruned(removed)
    return Variants(read_module(narrowest, prunable.example), least)
