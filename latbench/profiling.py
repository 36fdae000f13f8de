"""Profiling: fill a latency table, or go on filling it.

All blocks and the calibration networks are visited in the same shuffled passes until the
estimates have converged or the time is up. Every finished pass is committed; whatever ends a
run, the same call goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from latbench.blocks import BlockSpec, Network
from latbench.cost import BYTES_PER_FLOAT, network_cost
from latbench.device import SweepProtocol
from latbench.environment import Environment, current_environment
from latbench.errors import MismatchError
from latbench.measure.lock import device_lock
from latbench.measure.samples import Interval, Samples
from latbench.measure.sweep import Target, block_target, network_target, sweep_pass
from latbench.profilers import Profiler
from latbench.tables import Estimate, SpaceLabel, StoredFit, TableStore
from latbench.tables.pricing import NetworkSample, PriceModel, fit_price

Progress = Callable[[float, str], None]
"""Called now and then with the fraction done, 0 to 1, and a few words."""

Stopped = Literal["converged", "time limit", "pass limit", "interrupted"]

_CHECK_EVERY = 5  # passes between looks at convergence, each of which takes about a second


@dataclass(frozen=True)
class ProfileResult:
    """What a profiling run leaves.

    Attributes:
        blocks: Blocks in the table.
        measured: Blocks with a price of their own measurement.
        interpolated: Blocks with a price between measured ones.
        noisy: Blocks whose interval is wider than the tolerance.
        passes: Passes in the table, those of earlier runs included.
        seconds: Wall time of this run.
        stopped: Why it ended.
        overhead: Fraction of the passes' time outside timed calls and session opening.
        loo_error: Error of calibration networks left out of the fit.
        floor: Calibration networks against themselves, between two halves of the sweep.
        noisy_sweep: The floor exceeds the protocol's tolerance.
        heldout_error: Error at widths held out of interpolation; None without interpolation.
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
    heldout_error: float | None = None


def profile(
    profiler: Profiler,
    path: Path,
    space: SpaceLabel,
    *,
    blocks: Sequence[BlockSpec],
    networks: Sequence[Network],
    time_limit_s: float,
    progress: Progress = lambda fraction, words: None,
) -> ProfileResult:
    """Fill the table at ``path``, or go on filling it, and fit its prices.

    The limit is shared over all blocks: each gets a price, only a rougher one. One pass is
    always finished. An interrupt (``KeyboardInterrupt``) loses the pass in flight and ends the
    run as a time limit does.

    Args:
        profiler: Of the device.
        path: The table; made if there is none, and removed again if not one pass was finished.
        space: What the table is to be called a table of.
        blocks: Blocks to price; those already in the table go on where they were.
        networks: Calibration networks, whose blocks are all among ``blocks``.
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
        with _open_or_create(path, profiler, space) as store:
            try:
                environment = current_environment(profiler.versions())
                _require_same_machine(store, environment)
                store.record_environment(environment)
                store.add_targets(blocks, networks)
                run = _Run(profiler, store, begin=begin, limit_s=time_limit_s, progress=progress)
                stopped = run.measure()
                if store.passes() == 0:
                    raise KeyboardInterrupt
            except BaseException:
                if is_new and store.passes() == 0:
                    path.unlink(missing_ok=True)
                raise
            progress(1.0, "fitting prices")
            return _result(store, run, stopped, seconds=monotonic() - begin)


def _open_or_create(path: Path, profiler: Profiler, space: SpaceLabel) -> TableStore:
    """The table at ``path`` for this device and space, made if there is none."""
    if not path.exists():
        environment = current_environment(profiler.versions())
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


def _require_same_machine(store: TableStore, now: Environment) -> None:
    """Visits of two machines, or of two versions of a runtime, are not pooled."""
    differences = now.differences(store.environment)
    if differences and store.passes():
        raise MismatchError(
            f"{store.path} was measured elsewhere ({'; '.join(differences)}), and visits are not "
            "pooled: choose another file"
        )


def _result(store: TableStore, run: _Run, stopped: Stopped, *, seconds: float) -> ProfileResult:
    floor, noisy_sweep, loo_error = _work_out(store, run.samples, run.protocol)
    estimates = store.estimates()
    block_ids = store.blocks()
    timing = store.timing()
    outside = timing["seconds"] - timing["open_s"] - timing["calls_s"]
    measured = sum(id_ in estimates for id_ in block_ids)
    return ProfileResult(
        blocks=len(block_ids),
        measured=measured,
        interpolated=0,
        noisy=sum(estimates[id_].noisy for id_ in block_ids if id_ in estimates),
        passes=store.passes(),
        seconds=seconds,
        stopped=stopped,
        overhead=outside / timing["seconds"],
        loo_error=loo_error,
        floor=floor,
        noisy_sweep=noisy_sweep,
    )


class _Run:
    """The measuring part of a profiling run."""

    def __init__(
        self,
        profiler: Profiler,
        store: TableStore,
        *,
        begin: float,
        limit_s: float,
        progress: Progress,
    ) -> None:
        protocol = profiler.profile.sweep
        self.profiler, self.store, self.protocol = profiler, store, protocol
        self.begin, self.limit_s, self.progress = begin, limit_s, progress
        self.block_ids = list(store.blocks())
        self.network_ids = list(store.networks())
        blocks = [block_target(id_, (spec,), protocol) for id_, spec in store.blocks().items()]
        visits = protocol.network_visits
        self.targets: list[Target] = blocks + [
            network_target(id_, network, protocol, visits=visits)
            for id_, network in store.networks().items()
        ]
        self.samples = Samples()
        self.samples.add(store.visits())
        self.pass_s = 0.0
        self.passes_before = store.passes()

    def measure(self) -> Stopped:
        done_here = 0
        try:
            while True:
                done = self.store.passes()
                if done_here >= self.protocol.max_passes:
                    return "pass limit"
                if done_here and self._elapsed_s() + self.pass_s / 2 > self.limit_s:
                    return "time limit"
                if self._due(done) and self._converged():
                    return "converged"
                record = sweep_pass(
                    self.profiler, self.targets, number=done, on_visit=self._visited
                )
                self.store.add_pass(record)
                self.samples.add(record.visits)
                self.pass_s = record.seconds
                done_here += 1
        except KeyboardInterrupt:
            return "interrupted"

    def _due(self, done: int) -> bool:
        return done >= self.protocol.min_passes and done % _CHECK_EVERY == 0

    def _converged(self) -> bool:
        p = self.protocol
        if self.samples.joint_half_width(self.network_ids, p.quantile) > p.network_tolerance:
            return False
        return all(
            interval.half_width <= p.block_tolerance
            for cold in (False, True)
            for interval in self.samples.intervals(self.block_ids, p.quantile, cold=cold).values()
        )

    def _elapsed_s(self) -> float:
        return monotonic() - self.begin

    def _visited(self, done: int, total: int) -> None:
        if done % 16 and done != total:
            return
        passes = self.store.passes()
        by_passes = (passes - self.passes_before + done / total) / self.protocol.max_passes
        fraction = max(by_passes, self._elapsed_s() / self.limit_s)
        self.progress(min(fraction, 1.0), f"pass {passes + 1}, {done} of {total} visits")


def _work_out(
    store: TableStore, samples: Samples, protocol: SweepProtocol
) -> tuple[float | None, bool, float | None]:
    """Estimate every target, fit the prices, store both; return floor, noise and fit error."""
    blocks, networks = store.blocks(), store.networks()
    quantile = protocol.quantile
    hot = samples.intervals([*blocks, *networks], quantile)
    cold = samples.intervals(blocks, quantile, cold=True)
    ids = {spec: id_ for id_, spec in blocks.items()}
    data = []
    for id_, network in networks.items():
        members = [ids[spec] for spec in network]
        data.append(
            NetworkSample(
                blocks=len(network),
                cold_ms=sum(cold[m].estimate_ms for m in members),
                hot_ms=sum(hot[m].estimate_ms for m in members),
                weight_bytes=network_cost(network).params * BYTES_PER_FLOAT,
                latency_ms=hot[id_].estimate_ms,
            )
        )
    price = fit_price(
        data,
        least_cold_ms=min(interval.estimate_ms for interval in cold.values()),
        least_hot_ms=min(hot[id_].estimate_ms for id_ in blocks),
    )
    floor = samples.floor(networks, quantile)
    noisy_sweep = floor is not None and floor > protocol.floor_tolerance
    store.set_results(
        {
            id_: _estimate(
                hot[id_],
                cold.get(id_),
                visits=len(samples.hot_ms[id_]),
                noisy=len(samples.hot_ms[id_]) < protocol.min_passes
                or _price_half_width(price, hot[id_], cold.get(id_)) > protocol.block_tolerance,
            )
            for id_ in hot
        },
        StoredFit(price, floor, noisy_sweep),
    )
    return floor, noisy_sweep, price.loo_error


def _price_half_width(price: PriceModel, hot: Interval, cold: Interval | None) -> float:
    """Half width of the interval of a block's price, relative; of a network's its own."""
    if cold is None:
        return hot.half_width
    ends = [
        price.cold_scale * c + price.hot_scale * h
        for c, h in ((cold.low_ms, hot.low_ms), (cold.high_ms, hot.high_ms))
    ]
    middle_ms = price.cold_scale * cold.estimate_ms + price.hot_scale * hot.estimate_ms
    return (ends[1] - ends[0]) / 2 / middle_ms if middle_ms else hot.half_width


def _estimate(hot: Interval, cold: Interval | None, *, visits: int, noisy: bool) -> Estimate:
    return Estimate(
        hot.estimate_ms,
        hot.low_ms,
        hot.high_ms,
        cold.estimate_ms if cold else None,
        cold.low_ms if cold else None,
        cold.high_ms if cold else None,
        visits,
        noisy,
    )
