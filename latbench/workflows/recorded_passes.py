"""Passes that are committed to a table: every sweep of a table is made of these.

A pass is swept, stored, and followed by the remarks of the profiler. If the process ends, all
finished passes are in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from time import monotonic

from msgspec.structs import replace

from latbench.environment import Environment
from latbench.measure.sweep import PassRecord, fraction_done, sweep_pass
from latbench.measure.visiting import Target
from latbench.profilers import Profiler
from latbench.progress import Progress
from latbench.tables import TableStore


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
    """Add passes to a sweep until it has ``passes``; each pass is committed when it is done.

    Args:
        profiler: Profiler of the device.
        store: Table that stores the passes.
        sweep: Id of the sweep.
        targets: Targets that each pass visits.
        passes: Final number of passes of the sweep.
        limit_s: Wall time of this call, in s; at least one pass is finished. The time is up between
            two visits: the visits of the current pass are kept.
        progress: Callback that reports the progress.
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
            left_s = limit_s - elapsed_s if taken_s else max(whole_s - spent_s, limit_s - elapsed_s)
            done_part = (number + share) / passes
            if left_s < by_passes_s:  # the time limit comes first
                done_part = fraction_done(elapsed_s, left_s)
            progress(done_part, f"pass {number + 1} of {passes}")

        def time_is_up(target_id: int) -> bool:
            return bool(taken_s) and monotonic() - begin >= limit_s

        record = record_pass(profiler, store, sweep, targets, may_skip=time_is_up, on_visit=visited)
        taken_s.append(record.seconds)


def record_pass(
    profiler: Profiler,
    store: TableStore,
    sweep: int,
    targets: Sequence[Target],
    *,
    may_skip: Callable[[int], bool] = lambda target_id: False,
    on_visit: Callable[[int, int], None],
) -> PassRecord:
    """Add the next pass to a sweep, and record what the profiler remarked.

    Args:
        profiler: Profiler of the device.
        store: Table that stores the pass.
        sweep: Id of the sweep.
        targets: Targets to visit.
        may_skip: Whether the pass may leave out a target; called with its id before each visit.
        on_visit: Callback after each visit, with the number of finished visits and of all visits.
    """
    number = store.passes(sweep)
    record = sweep_pass(profiler, targets, number=number, may_skip=may_skip, on_visit=on_visit)
    store.add_pass(sweep, record)
    remarks = profiler.remarks()
    if record.spoilt is not None:
        remarks.append(f"The device was throttled during passes: {record.spoilt}.")
    _keep_remarks(store, remarks)
    return record


def _keep_remarks(store: TableStore, remarks: list[str]) -> None:
    """Record which requests could not be followed so far, and other doubts."""
    known = store.environment.remarks
    if any(remark not in known for remark in remarks):
        renew_environment(store, replace(store.environment, remarks=remarks))


def renew_environment(store: TableStore, environment: Environment) -> None:
    """Record the environment of a run; remarks of all sweeps are kept."""
    remarks = [*store.environment.remarks, *environment.remarks]
    store.record_environment(replace(environment, remarks=list(dict.fromkeys(remarks))))
