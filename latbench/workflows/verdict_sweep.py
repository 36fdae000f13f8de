"""Sweeps that decide whether networks keep a budget: candidates and references in turn.

The references are a few networks of the profiling whose latency is near the budget. They tell how
the machine differs from the time of the profiling, and how much it changes from sweep to sweep. All
visits are stored in the table, pass by pass. Prices do not change by them. The next ``calibrate``
uses the last confirmation for each budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from math import inf
from pathlib import Path
from time import time
from typing import Literal

import msgspec
import numpy as np

from latbench.blocks import Network
from latbench.measure.lock import held
from latbench.measure.samples import Samples
from latbench.measure.sweep import fraction_done
from latbench.measure.swept_networks import SweptNetwork, SweptNetworks, interval, spread
from latbench.measure.visiting import network_target
from latbench.profilers import Profiler, profiler_of_table
from latbench.progress import Progress, silent
from latbench.tables import LatencyTable, TableStore
from latbench.tables.records import Purpose
from latbench.workflows.apart import DIED, run_apart
from latbench.workflows.network_sweep import present_environment
from latbench.workflows.recorded_passes import record_pass

REFERENCES = 5
LEAST_PASSES = 32  # eight visits in each part
_FEWEST_PASSES = 8  # for networks so slow that more take several times the limit
_LONGEST = 3  # the sweep never takes more than so many times its limit, but for these passes
_LIMIT_S = {"selection": 40.0, "confirmation": 60.0}
_PRECISE = 0.01  # half width at which a selection ends: candidates differ by about as much
_CHECK_EVERY = 1.5  # factor of the passes from one look at the intervals to the next
_NARROWER = 0.9  # an interval that does not shrink to this fraction does not narrow
_STALLED = 2  # looks without a narrower interval after which a sweep ends
_RESUME_WITHIN_S = 600.0  # passes of an interrupted sweep that are older do not count


class SweepRule(msgspec.Struct, frozen=True):
    """What a sweep is for, and when it ends.

    Attributes:
        purpose: ``selection`` of one candidate among several, or its ``confirmation``.
        budget_ms: The budget.
        loop: Text that the sweeps for one budget have in common.
        earlier: The sweeps before this one, which show the drift of the machine.
    """

    purpose: Literal["selection", "confirmation"]
    budget_ms: float
    loop: str
    earlier: tuple[SweptNetworks, ...] = ()

    @property
    def limit_s(self) -> float:
        """Duration after which the sweep ends in any case."""
        return _LIMIT_S[self.purpose]

    def width(self, swept: SweptNetworks) -> float:
        """Largest relative half width of the networks' intervals; 0 once they are decided."""
        relative = spread((*self.earlier, swept))
        found = [interval(network, relative) for network in swept.networks]
        if self.purpose == "selection":
            widest = max(each.half_width for each in found)
            return 0.0 if widest <= _PRECISE else widest
        open_ = [each for each in found if each.low_ms <= self.budget_ms < each.high_ms]
        return max((each.half_width for each in open_), default=0.0)


class Narrowing:
    """Decides after each pass whether a sweep goes on.

    The intervals are looked at from time to time. The sweep ends when they are narrow enough, when
    they no longer narrow, or at its time limit.

    Args:
        rule: Rule of the sweep.
    """

    def __init__(self, rule: SweepRule) -> None:
        self.rule = rule
        self.next_look = LEAST_PASSES
        self.narrowest = inf
        self.stalled = 0

    def is_due(self, passes: int, seconds: float) -> bool:
        """Whether it is time to look at the intervals, after so many passes and seconds."""
        late = seconds >= _LONGEST * self.rule.limit_s
        return passes >= self.next_look or (late and passes >= _FEWEST_PASSES)

    def goes_on(self, swept: SweptNetworks) -> bool:
        """Whether another pass is worth its time, if a look is due."""
        self.next_look = round(_CHECK_EVERY * swept.passes)
        width = self.rule.width(swept)
        self.stalled = 0 if width < _NARROWER * self.narrowest else self.stalled + 1
        self.narrowest = min(width, self.narrowest)
        return bool(width) and self.stalled < _STALLED and swept.seconds < self.rule.limit_s


def sweep_networks(
    profiler: Profiler,
    table: LatencyTable,
    networks: Sequence[Network],
    rule: SweepRule,
    *,
    progress: Progress = silent,
) -> SweptNetworks:
    """Visit networks and references in turn, or continue an interrupted sweep of them.

    Args:
        profiler: Profiler of the table's device.
        table: Table that stores the visits.
        networks: Distinct networks to measure.
        rule: Purpose and end of the sweep.
        progress: Callback that reports the progress.

    Raises:
        MismatchError: The table belongs to another device or machine.
        RuntimeFailure: The device cannot be used any more; finished passes are kept.
        DeviceBusyError: Another process measures on the device.
    """
    protocol = profiler.profile.sweep
    with held(profiler), TableStore.open(table.path) as store:
        environment = present_environment(profiler, table)
        ids = store.add_networks(networks, "verification")
        references = _references(store, table, rule.budget_ms)
        # a fit is not made on measurements of two versions of a runtime
        comparable = not environment.differences(table.environment)
        purpose: Purpose = rule.purpose if comparable else "verification"
        measured = [sorted(ids), sorted(references), len(rule.earlier)]
        members = sha256(repr(measured).encode()).hexdigest()
        detail = f"{rule.loop} {members} {rule.budget_ms!r}"
        sweep = store.begin_sweep(purpose, environment, detail=detail, within_s=_RESUME_WITHIN_S)
        by_id = dict(zip(ids, networks, strict=True)) | references
        targets = [network_target(id_, each, protocol, visits=1) for id_, each in by_id.items()]
        then_ms = [table.networks[network].hot_ms for network in references.values()]
        rows = (ids, list(references), then_ms)
        narrowing = Narrowing(rule)
        reached = 0.0

        def visited(done: int, total: int) -> None:
            progress(reached, f"visit {done} of {total}")

        while True:
            record_pass(profiler, store, sweep, targets, on_visit=visited)
            passes, seconds = store.passes(sweep), store.timing(sweep)["seconds"]
            if narrowing.is_due(passes, seconds):
                swept = _swept(store, sweep, *rows, quantile=protocol.quantile)
                if not narrowing.goes_on(swept):
                    break
            least_s = seconds * LEAST_PASSES / passes
            left_s = max(least_s, rule.limit_s) - seconds
            reached = fraction_done(seconds, left_s)
            progress(reached, f"pass {passes}")
        store.finish_sweep(sweep)
    return swept


def sweep_apart(
    path: Path, networks: Sequence[Network], rule: SweepRule, *, progress: Progress = silent
) -> SweptNetworks:
    """Run ``sweep_networks`` on the table at ``path`` in a process of its own.

    The threads and the memory of a training slow down measurements in the same process.

    Raises:
        LatbenchError: As for ``sweep_networks``.
        OSError: A file cannot be read or written, for example on a full disk.
        sqlite3.Error: The table cannot be read or written.
    """
    died = f"{DIED}: finished passes are kept"
    return run_apart(_sweep_at, path, tuple(networks), rule, died=died, progress=progress)


def _sweep_at(
    path: Path, networks: Sequence[Network], rule: SweepRule, progress: Progress
) -> SweptNetworks:
    table = LatencyTable.open(path)
    return sweep_networks(profiler_of_table(table.device), table, networks, rule, progress=progress)


def _references(store: TableStore, table: LatencyTable, budget_ms: float) -> dict[int, Network]:
    """The networks of the profiling whose latencies are nearest to a budget, by id."""
    known = {id_: n for id_, n in store.networks("profile").items() if n in table.networks}
    nearest = sorted(known, key=lambda id_: abs(table.networks[known[id_]].hot_ms - budget_ms))
    return {id_: known[id_] for id_ in nearest[:REFERENCES]}


def _swept(
    store: TableStore,
    sweep: int,
    ids: Sequence[int],
    reference_ids: Sequence[int],
    references_then_ms: Sequence[float],
    *,
    quantile: float,
) -> SweptNetworks:
    samples = Samples.of(store.visits(sweep))
    found = SweptNetwork.of(
        np.array([samples.hot_ms[id_] for id_ in (*ids, *reference_ids)]), quantile
    )
    return SweptNetworks(
        networks=tuple(found[: len(ids)]),
        references=tuple(found[len(ids) :]),
        references_then_ms=tuple(references_then_ms),
        passes=store.passes(sweep),
        seconds=store.timing(sweep)["seconds"],
        finished_s=time(),
    )
