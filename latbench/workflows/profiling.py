"""Profiling: fill a latency table, or continue to fill it.

A run first scans consecutive widths of a few blocks to find the width classes of the runtime. Then
it visits, in the same shuffled passes, some widths of every block, held-out widths that check the
interpolation, and the calibration networks; ``pass_plan.py`` says which of them. It stops when the
estimates have converged or the time is up. More widths are added where the first ones predict each
other badly. Every finished pass is committed, so after any interruption the same call continues
where the run ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from latbench.blocks import Network
from latbench.measure.lock import held
from latbench.measure.samples import Samples
from latbench.measure.sweep import fraction_done
from latbench.measure.visiting import Target
from latbench.profilers import Profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.tables import StoredFit, TableStore
from latbench.tables.estimation import work_out
from latbench.tables.width_curves import Curves
from latbench.workflows.pass_plan import PassPlan
from latbench.workflows.profiled_table import (
    TableContents,
    begin_profiling,
    block_targets,
    join_networks,
    open_or_create,
)
from latbench.workflows.recorded_passes import record_pass
from latbench.workflows.width_plan import WidthPlan, likely_blocks

Stopped = Literal["converged", "time limit", "pass limit", "interrupted"]

_CHECK_EVERY = 5  # passes between checks of convergence; a check takes about a second

_REFINE_AFTER = (6, 12)  # numbers of passes after which more widths may be added

_FIT_S = 5.0  # expected time of the estimates and the fit


@dataclass(frozen=True, repr=False)
class ProfileResult(Result):
    """Summary of a profiling run.

    Attributes:
        blocks: Number of blocks with a price; every width counts.
        measured: Number of measured blocks.
        interpolated: Number of blocks whose price is interpolated between measured widths.
        noisy: Number of noisy blocks. A measured block is noisy if it has too few visits or, in the
            uniform design, an interval wider than the tolerance; an interpolated one, if its class
            was not measured on both sides of it.
        passes: Number of passes in the table, including those of earlier runs.
        seconds: Wall time of this run.
        stopped: Reason why the run ended.
        overhead: Fraction of the passes' time outside timed calls and session opening.
        loo_error: Mean absolute error of calibration networks left out of the fit.
        floor: Split-half noise of the calibration networks.
        noisy_sweep: Whether the split-half noise exceeds the protocol's tolerance.
        heldout_error: Mean absolute error of interpolation at held-out widths; None without any.
        alignment: Width classes of the runtime, in words.
    """

    blocks: int
    measured: int
    interpolated: int
    noisy: int
    passes: int
    seconds: float
    stopped: Stopped
    overhead: float
    loo_error: float | None
    floor: float | None
    noisy_sweep: bool
    heldout_error: float | None
    alignment: str

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self.stopped == "interrupted"


def profile(
    profiler: Profiler,
    path: Path,
    contents: TableContents,
    *,
    time_limit_s: float,
    progress: Progress = silent,
) -> ProfileResult:
    """Fill the table at ``path``, or continue to fill it, and fit its prices.

    All blocks share the time limit: a short limit makes every price less precise, but leaves none
    out. At least one pass is always finished. When the time is up in a later pass, only blocks that
    have no visit yet are still visited, and all visits are kept. An interrupt
    (``KeyboardInterrupt``) discards the current pass and ends the run.

    Args:
        profiler: Profiler of the device.
        path: Table file. It is created if it does not exist, and removed again if no pass was
            finished.
        contents: Blocks to price and networks to fit the prices on. Earlier measurements in the
            table are kept and extended. A table that already has networks keeps them; new ones are
            added only up to the number asked for.
        time_limit_s: Wall time of this run, in s.
        progress: Callback that reports the progress.

    Raises:
        DeviceBusyError: Another process measures on the device.
        InvalidFileError: The file is not a latency table.
        MismatchError: The table belongs to another device or space.
        RuntimeFailure: The runtime refused a block.
    """
    begin = monotonic()
    parts = [Phase("measure", seconds=time_limit_s, steady=True), Phase("fit", seconds=_FIT_S)]
    with Phases(progress, parts) as phases, held(profiler):
        measuring, fitting = phases["measure"], phases["fit"]
        measuring(0.0, "preparing")
        is_new = not path.exists()
        with open_or_create(path, profiler, contents.label) as store:
            run = None
            try:
                sweep = begin_profiling(store, profiler)
                join_networks(store, contents.networks)
                likely = len(likely_blocks(contents.blocks))
                run = _Run(profiler, store, sweep, begin, time_limit_s, measuring, likely=likely)
                typical = contents.typical or contents.networks
                stopped = run.measure(WidthPlan(contents.blocks), typical)
                if not run.samples.hot_ms.keys() & store.networks("profile").keys():
                    raise KeyboardInterrupt
            except BaseException:
                if is_new and (run is None or store.passes(run.sweep) == 0):
                    path.unlink(missing_ok=True)
                raise
            fitting(0.0, "fitting prices")
            fit = work_out(store, profiler.profile.sweep)
            fitting(0.5, "counting")
            return _result(store, run, fit, stopped, seconds=monotonic() - begin)


def _result(
    store: TableStore, run: _Run, fit: StoredFit, stopped: Stopped, *, seconds: float
) -> ProfileResult:
    estimates = store.estimates()
    blocks = store.blocks()
    known = {
        spec: estimates[id_] for id_, spec in store.blocks("block").items() if id_ in estimates
    }
    curves = Curves(store.alignment, known)
    measured = {spec: estimates[id_] for id_, spec in blocks.items() if id_ in estimates}
    between = [spec for spec in curves.between_specs() if spec not in measured]
    doubted = [*measured.values(), *(e for spec in between if (e := curves.between(spec)))]
    timing = store.timing(run.sweep)
    outside = timing["seconds"] - timing["open_s"] - timing["calls_s"]
    return ProfileResult(
        blocks=len(measured) + len(between),
        measured=len(measured),
        interpolated=len(between),
        noisy=sum(estimate.noisy for estimate in doubted),
        passes=store.passes(run.sweep),
        seconds=seconds,
        stopped=stopped,
        overhead=outside / timing["seconds"],
        loo_error=fit.price.loo_error,
        floor=fit.floor,
        noisy_sweep=fit.noisy,
        heldout_error=fit.held_out_error,
        alignment=str(curves),
    )


class _Run:
    """The measuring part of a profiling run.

    Args:
        profiler: Profiler of the device.
        store: Table that stores the passes.
        sweep: Id of the sweep.
        begin: Start of the run, by ``time.monotonic``.
        limit_s: Wall time of the run, in s.
        progress: Callback that reports the progress.
        likely: Approximate number of blocks that a whole pass visits.
    """

    def __init__(
        self,
        profiler: Profiler,
        store: TableStore,
        sweep: int,
        begin: float,
        limit_s: float,
        progress: Progress,
        *,
        likely: int,
    ) -> None:
        self.profiler, self.store, self.sweep = profiler, store, sweep
        self.protocol = profiler.profile.sweep
        self.begin, self.limit_s, self.progress = begin, limit_s, progress
        self.samples = Samples.of(store.visits(sweep))
        self.likely = likely
        self.pass_s = 0.0
        self.network_ids = list(store.networks("profile"))

    def measure(self, plan: WidthPlan, typical: Sequence[Network]) -> Stopped:
        """Scan, measure and refine until there is a reason to stop; return the reason."""
        try:
            alignment = self.store.alignment
            if alignment is None or alignment.error is None:  # not scanned on this device yet
                self._scan(plan)
            return self._passes(plan, typical)
        except KeyboardInterrupt:
            return "interrupted"

    def _scan(self, plan: WidthPlan) -> None:
        scanned = plan.scan()
        self.store.add_blocks(scanned)
        wanted = {(spec,) for spec in scanned}
        blocks = block_targets(self.store, self.protocol)
        targets = [target for target in blocks if target.network in wanted]
        scans = self.protocol.scan_passes
        while True:
            seen = [len(self.samples.hot_ms.get(target.id, ())) for target in targets]
            missing = scans - min(seen, default=scans)
            if missing <= 0:
                break

            def left_s(spent_s: float, pass_s: float, missing: int = missing) -> float:
                scan_s = missing * pass_s - spent_s
                least_s = scan_s + self._whole_pass_s(pass_s / len(targets))
                return max(least_s, self.limit_s - self._elapsed_s())

            self._pass(targets, left_s, words="scanning widths")
        registered = self.store.blocks()
        ids = {spec: id_ for id_, spec in registered.items()}
        fastest = self.samples.intervals([ids[s] for s in scanned], self.protocol.quantile)
        first = plan.first({s: fastest[ids[s]].estimate_ms for s in scanned}, registered.values())
        self.store.add_blocks(first.measured)
        self.store.add_blocks(first.held_out, "held-out")
        if first.alignment is not None:
            self.store.record_alignment(first.alignment)

    def _add_widths(self, plan: WidthPlan) -> bool:
        """Register more widths where the curves need them; return whether there are any."""
        alignment = self.store.alignment
        if alignment is None:
            return False
        blocks = self.store.blocks("block")
        intervals = self.samples.intervals(blocks, self.protocol.quantile)
        hot = {blocks[id_]: interval for id_, interval in intervals.items()}
        more = plan.more(hot, alignment, registered=len(blocks))
        self.store.add_blocks(more)
        return bool(more)

    def _passes(self, plan: WidthPlan, typical: Sequence[Network]) -> Stopped:
        passes = self._plan(typical)
        most, done_here = self.protocol.max_passes, 0
        while True:
            seen = passes.network_passes(self.samples)
            if done_here >= most:
                return "pass limit"
            if done_here and self._elapsed_s() + self.pass_s / 2 > self.limit_s:
                return "time limit"
            if seen in _REFINE_AFTER and self._add_widths(plan):
                passes = self._plan(typical)
            if done_here and seen % _CHECK_EVERY == 0 and passes.is_converged(self.samples):
                return "converged"
            later = most - done_here - 1
            targets, later_share = passes.next_pass(self.samples, passes=later)

            def left_s(
                spent_s: float,
                pass_s: float,
                done_here: int = done_here,
                later: float = later * later_share,
            ) -> float:
                by_passes_s = (1 + later) * pass_s - spent_s
                by_limit_s = self.limit_s - self._elapsed_s()
                left = min(by_passes_s, by_limit_s)
                return left if done_here else max(pass_s - spent_s, left)

            def may_skip(target_id: int, done_here: int = done_here) -> bool:
                is_up = done_here > 0 and self._elapsed_s() >= self.limit_s
                return is_up and bool(self.samples.hot_ms.get(target_id))

            self._pass(targets, left_s, may_skip=may_skip, words=f"pass {seen + 1}")
            done_here += 1

    def _plan(self, typical: Sequence[Network]) -> PassPlan:
        return PassPlan(self.store, self.sweep, protocol=self.protocol, typical=typical)

    def _whole_pass_s(self, block_s: float) -> float:
        """Approximate duration of a pass over all blocks and networks, from that of one visit."""
        p = self.protocol
        visits = len(self.network_ids) * p.network_visits
        return self.likely * block_s + visits * (block_s + p.network_dwell_ms / 1e3)

    def _pass(
        self,
        targets: Sequence[Target],
        left_s: Callable[[float, float], float],
        *,
        may_skip: Callable[[int], bool] = lambda target_id: False,
        words: str,
    ) -> None:
        """Make one pass and commit it.

        Args:
            targets: Targets to visit.
            left_s: Function of the time spent on this pass and its expected duration, both in s.
                Returns the remaining time of the run in s.
            may_skip: Whether the pass may leave out a target, by its id.
            words: Description of the current work.
        """
        begin = monotonic()

        def visited(done: int, total: int) -> None:
            spent_s = monotonic() - begin
            left = left_s(spent_s, spent_s * total / done)
            now = f"{words}, {done} of {total} visits"
            self.progress(fraction_done(self._elapsed_s(), left), now)

        record = record_pass(
            self.profiler,
            self.store,
            self.sweep,
            targets,
            may_skip=may_skip,
            on_visit=visited,
        )
        self.samples.add(record.visits)
        self.pass_s = record.seconds

    def _elapsed_s(self) -> float:
        return monotonic() - self.begin
