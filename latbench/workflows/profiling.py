"""Profiling: fill a latency table, or go on filling it.

First all widths of a stretch of a few blocks, to find the width classes of the runtime. Then
knots of every block's curve over width, held-out widths to check the interpolation by, and the
calibration networks, all visited in the same shuffled passes until the estimates have converged
or the time is up; more knots join where the first ones disagree. Every finished pass is
committed; whatever ends a run, the same call goes on where it ended.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

import numpy as np
from msgspec.structs import replace

from latbench.blocks import BlockSpec, Network
from latbench.cost import network_cost
from latbench.device import SweepProtocol
from latbench.environment import Environment
from latbench.errors import MismatchError
from latbench.measure.lock import device_lock
from latbench.measure.samples import Samples
from latbench.measure.sweep import (
    Target,
    block_target,
    fraction_done,
    network_target,
    sweep_pass,
)
from latbench.profilers import Profiler
from latbench.progress import Progress, silent
from latbench.result import Result
from latbench.tables import SpaceLabel, StoredFit, TableStore
from latbench.tables.estimation import work_out
from latbench.tables.width_curves import Curves
from latbench.workflows.width_plan import KnotPlan, likely_blocks

Stopped = Literal["converged", "time limit", "pass limit", "interrupted"]

_CHECK_EVERY = 5  # passes between looks at convergence, each of which takes about a second

_SAMPLED = 40  # blocks that a forecast visits
_COPIES = 4  # of a network's weights while its session opens, and what the runtime keeps of them
_REFINE_AFTER = (6, 12)  # passes over the knots, after which more knots may join


@dataclass(frozen=True, repr=False)
class ProfileResult(Result):
    """What a profiling run leaves.

    Attributes:
        blocks: Blocks with a price, every width counted.
        measured: Blocks with a price of their own measurement.
        interpolated: Blocks with a price between measured ones.
        noisy: Measured blocks whose interval is wider than the tolerance, and interpolated ones
            whose class was not measured around them.
        passes: Passes in the table, those of earlier runs included.
        seconds: Wall time of this run.
        stopped: Why it ended.
        overhead: Fraction of the passes' time outside timed calls and session opening.
        loo_error: Error of calibration networks left out of the fit.
        floor: Calibration networks against themselves, between two halves of the sweep.
        noisy_sweep: The floor exceeds the protocol's tolerance.
        heldout_error: Mean absolute error at widths held out of interpolation; None without them.
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
    space: SpaceLabel,
    *,
    blocks: Sequence[BlockSpec],
    networks: Sequence[Network],
    time_limit_s: float,
    progress: Progress = silent,
) -> ProfileResult:
    """Fill the table at ``path``, or go on filling it, and fit its prices.

    The limit is shared over all blocks: each gets a price, only a rougher one. One pass is
    always finished. An interrupt (``KeyboardInterrupt``) loses the pass in flight and ends the
    run as a time limit does.

    Args:
        profiler: Of the device.
        path: The table; made if there is none, and removed again if not one pass was finished.
        space: What the table is to be called a table of.
        blocks: Blocks to price. Of those that differ in width alone some are measured, the
            others interpolated; what is already in the table goes on where it was.
        networks: Networks to fit prices on, whose blocks are all among ``blocks``. A table that
            has some keeps them, and as many join as it has fewer.
        time_limit_s: Wall time in s for this run.
        progress: Told what is going on.

    Raises:
        DeviceBusyError: Another process measures on the device.
        InvalidFileError: The file is no table.
        MismatchError: The table is of another device or space.
        RuntimeFailure: The runtime refused a block.
    """
    begin = monotonic()
    with device_lock(profiler.profile.device):
        is_new = not path.exists()
        with open_or_create(path, profiler, space) as store:
            run = None
            try:
                environment = profiler.environment()
                require_same_machine(store, environment)
                renew_environment(store, environment)
                sweep = store.begin_sweep("profile", environment)
                join_networks(store, networks)
                likely = len(likely_blocks(blocks))
                run = _Run(profiler, store, sweep, begin, time_limit_s, progress, likely=likely)
                stopped = run.measure(KnotPlan(store, blocks))
                if not run.samples.hot_ms.keys() & store.networks("profile").keys():
                    raise KeyboardInterrupt
            except BaseException:
                if is_new and (run is None or store.passes(run.sweep) == 0):
                    path.unlink(missing_ok=True)
                raise
            progress(1.0, "fitting prices")
            fit = work_out(store, profiler.profile.sweep)
            return _result(store, run, fit, stopped, seconds=monotonic() - begin)


@dataclass(frozen=True, repr=False)
class Forecast(Result):
    """What a profiling run would take.

    Attributes:
        blocks: Blocks that would have a price.
        measured: How many of them would be measured, about.
        networks: Networks that prices would be fitted on.
        pass_s: Seconds of one pass over all of them.
        minutes: Until the least number of passes that a sweep may stop after.
        passes: Passes that the time limit allows.
        memory_mib: Peak memory of the process, about.
    """

    blocks: int
    measured: int
    networks: int
    pass_s: float
    minutes: float
    passes: int
    memory_mib: int


def forecast(
    profiler: Profiler,
    *,
    blocks: Sequence[BlockSpec],
    networks: Sequence[Network],
    time_limit_s: float,
) -> Forecast:
    """Say what ``profile`` would take, from one visit to a sample of its targets.

    Raises:
        DeviceBusyError: Another process measures on the device.
        RuntimeFailure: The runtime refused a block.
    """
    protocol = profiler.profile.sweep
    measured = likely_blocks(blocks)
    rng = np.random.default_rng(0)
    drawn = rng.choice(len(measured), size=min(_SAMPLED, len(measured)), replace=False)
    sample = [block_target(0, (measured[i],), protocol) for i in drawn]
    few = [network_target(1, n, protocol, visits=1) for n in (networks[0], networks[-1])]
    with device_lock(profiler.profile.device):
        sweep_pass(profiler, sample, number=0)  # what is made once a process
        block_s = sweep_pass(profiler, sample, number=1).seconds / len(sample)
        network_s = sweep_pass(profiler, few, number=1).seconds / len(few)
    pass_s = len(measured) * block_s + len(networks) * protocol.network_visits * network_s
    largest = max(network_cost(network).weight_bytes for network in networks)
    return Forecast(
        blocks=len(blocks),
        measured=len(measured),
        networks=len(networks),
        pass_s=pass_s,
        minutes=protocol.min_passes * pass_s / 60,
        passes=max(1, min(protocol.max_passes, int(time_limit_s / pass_s))),
        memory_mib=(_peak_bytes() + _COPIES * largest) >> 20,
    )


def _peak_bytes() -> int:
    """Most memory that this process has had so far."""
    kib: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib << 10


def open_or_create(path: Path, profiler: Profiler, space: SpaceLabel) -> TableStore:
    """The table at ``path`` for this device and space, made if there is none.

    Raises:
        InvalidFileError: The file is no table.
        MismatchError: The table is of another device or space.
    """
    if not path.exists():
        environment = profiler.environment()
        return TableStore.create(
            path, device=profiler.profile, space=space, environment=environment
        )
    store = TableStore.open(path)
    try:
        if not profiler.profile.same_device(store.device):
            raise MismatchError(
                f"{path} is a table of {store.device.name}, not of {profiler.profile.name} as it "
                "is now: choose another file"
            )
        if store.space != space:
            raise MismatchError(f"{path} prices {store.space}, not {space}: choose another file")
    except MismatchError:
        store.close()
        raise
    return store


def renew_environment(store: TableStore, environment: Environment) -> None:
    """Record the environment of a run; remarks of earlier runs stay, as their visits do."""
    remarks = [*store.environment.remarks, *environment.remarks]
    store.record_environment(replace(environment, remarks=list(dict.fromkeys(remarks))))


def keep_remarks(store: TableStore, profiler: Profiler) -> None:
    """Record what the profiler could not do as asked so far."""
    known = store.environment.remarks
    if any(remark not in known for remark in profiler.remarks()):
        renew_environment(store, replace(store.environment, remarks=profiler.remarks()))


def join_networks(store: TableStore, networks: Sequence[Network]) -> None:
    """Register the networks of a profiling.

    A table that has some keeps them, with all that was measured on them: prices are fitted on
    them and drifts are told by them. As many new ones join as the table has fewer than asked.
    """
    kept = store.networks("profile")
    known = set(store.networks("profile", "calibration", "verification").values())
    fresh = [network for network in dict.fromkeys(networks) if network not in known]
    lacking = min(len(fresh), max(0, len(networks) - len(kept)))
    spread = np.linspace(0, len(fresh) - 1, lacking).round().astype(int)
    store.add_networks([fresh[i] for i in spread], "profile")


def profile_targets(store: TableStore, protocol: SweepProtocol) -> list[Target]:
    """Everything that a pass of a profiling visits: the registered blocks, and the networks."""
    visits = protocol.network_visits
    return _block_targets(store, protocol) + [
        network_target(id_, network, protocol, visits=visits)
        for id_, network in store.networks("profile").items()
    ]


def _block_targets(store: TableStore, protocol: SweepProtocol) -> list[Target]:
    return [block_target(id_, (spec,), protocol) for id_, spec in store.blocks().items()]


def require_same_machine(store: TableStore, now: Environment) -> None:
    """Refuse to pool visits of two machines, or of two versions of a runtime.

    Raises:
        MismatchError: The table has visits of another machine or version.
    """
    differences = now.differences(store.environment)
    if differences and store.profiling() is not None:
        raise MismatchError(
            f"{store.path} was measured elsewhere ({'; '.join(differences)}), and visits are not "
            "pooled: choose another file"
        )


def _result(
    store: TableStore, run: _Run, fit: StoredFit, stopped: Stopped, *, seconds: float
) -> ProfileResult:
    estimates = store.estimates()
    blocks = store.blocks()
    knots = {
        spec: estimates[id_] for id_, spec in store.blocks("block").items() if id_ in estimates
    }
    curves = Curves(store.alignment, knots)
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
        profiler: Of the device.
        store: Where the passes are kept.
        sweep: Which sweep.
        begin: When the run began, by ``time.monotonic``.
        limit_s: Wall time in s for the run.
        progress: Told what is going on.
        likely: About how many blocks a whole pass visits.
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

    def measure(self, plan: KnotPlan) -> Stopped:
        """Scan, measure, refine, until there is a reason to stop."""
        try:
            alignment = self.store.alignment
            if alignment is None or alignment.error is None:  # not found here, or not at all
                self._scan(plan)
            return self._passes(plan)
        except KeyboardInterrupt:
            return "interrupted"

    def _scan(self, plan: KnotPlan) -> None:
        scanned = plan.scan()
        self.store.add_blocks(scanned)
        wanted = {(spec,) for spec in scanned}
        blocks = _block_targets(self.store, self.protocol)
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
        plan.add_knots(scanned, self.samples, self.protocol.quantile)

    def _passes(self, plan: KnotPlan) -> Stopped:
        targets = profile_targets(self.store, self.protocol)
        done_here = 0
        while True:
            seen = self._network_passes()
            if done_here >= self.protocol.max_passes:
                return "pass limit"
            if done_here and self._elapsed_s() + self.pass_s / 2 > self.limit_s:
                return "time limit"
            if seen in _REFINE_AFTER and plan.refine(self.samples, self.protocol.quantile):
                targets = profile_targets(self.store, self.protocol)
            if self._due(seen) and self._converged():
                return "converged"

            def left_s(spent_s: float, pass_s: float, done_here: int = done_here) -> float:
                by_passes_s = (self.protocol.max_passes - done_here) * pass_s - spent_s
                by_limit_s = self.limit_s - self._elapsed_s()
                return max(pass_s - spent_s, min(by_passes_s, by_limit_s))

            self._pass(targets, left_s, words=f"pass {seen + 1}")
            done_here += 1

    def _whole_pass_s(self, block_s: float) -> float:
        """About what a pass over all blocks and networks takes, by what one visit takes."""
        p = self.protocol
        visits = len(self.network_ids) * p.network_visits
        return self.likely * block_s + visits * (block_s + p.network_dwell_ms / 1e3)

    def _pass(
        self,
        targets: Sequence[Target],
        left_s: Callable[[float, float], float],
        *,
        words: str,
    ) -> None:
        """Make one pass and commit it.

        Args:
            targets: What it visits.
            left_s: What the run takes still, in s, when so many s of a pass that takes so many s
                are spent. A pass that was begun is finished, whatever the limit.
            words: What is going on.
        """
        number, begin = self.store.passes(self.sweep), monotonic()

        def visited(done: int, total: int) -> None:
            if done % 16 == 0 or done == total:
                spent_s = monotonic() - begin
                left = left_s(spent_s, spent_s * total / done)
                told = f"{words}, {done} of {total} visits"
                self.progress(fraction_done(self._elapsed_s(), left), told)

        record = sweep_pass(self.profiler, targets, number=number, on_visit=visited)
        self.store.add_pass(self.sweep, record)
        keep_remarks(self.store, self.profiler)
        self.samples.add(record.visits)
        self.pass_s = record.seconds

    def _network_passes(self) -> int:
        """Passes so far in which the networks were visited."""
        counts = [len(self.samples.hot_ms.get(id_, ())) for id_ in self.network_ids]
        return min(counts) // self.protocol.network_visits if counts else 0

    def _due(self, done: int) -> bool:
        return done >= self.protocol.min_passes and done % _CHECK_EVERY == 0

    def _converged(self) -> bool:
        p = self.protocol
        if self.samples.joint_half_width(self.network_ids, p.quantile) > p.network_tolerance:
            return False
        blocks = list(self.store.blocks())
        return all(
            interval.half_width <= p.block_tolerance
            for cold in (False, True)
            for interval in self.samples.intervals(blocks, p.quantile, cold=cold).values()
        )

    def _elapsed_s(self) -> float:
        return monotonic() - self.begin
