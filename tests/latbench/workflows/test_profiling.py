"""Profiling and verification, on a runtime that really runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import latbench.workflows.profiling
import latbench.workflows.recorded_passes
from latbench.blocks import BlockSpec, Network, block_width
from latbench.device import DeviceProfile, SweepProtocol
from latbench.environment import Environment, Gpu, current_environment
from latbench.errors import (
    DeviceBusyError,
    MismatchError,
    RuntimeFailure,
    UnknownNameError,
)
from latbench.measure.lock import device_lock
from latbench.measure.samples import Interval
from latbench.measure.sweep import PassRecord, sweep_pass
from latbench.measure.visit import visit
from latbench.measure.visiting import Target, block_target, network_target
from latbench.profilers import PROFILERS, CacheFlusher, Flush, Profiler, Session, make_profiler
from latbench.tables import LatencyTable, Prediction, TableStore, estimation
from latbench.tables.estimation import Drift
from latbench.workflows import network_errors, network_sweep
from latbench.workflows.forecast import forecast
from latbench.workflows.network_errors import calibrate, verify, verify_apart
from latbench.workflows.network_sweep import (
    MeasuredNetworks,
    measure_networks,
    require_device,
)
from latbench.workflows.pass_plan import PassPlan
from latbench.workflows.profiling import ProfileResult
from nas.latency.priced_space import PricedSpace
from nas.latency.table_contents import space_contents
from nas.spaces import SearchSpace, every_width
from tests.conftest import (
    make_quick_profile,
    make_tiny_space,
    profile_space,
    random_price,
    write_table,
)

SCAN_PASSES = 1  # of the quick profile


class CountingProfiler(Profiler):
    """Stands in for a runtime: counts calls and opened sessions, computes nothing."""

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        self.opened: list[Network] = []
        self.live = self.most_live = self.calls = 0

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        return None

    def open(self, network: Network) -> Session:
        self.opened.append(network)
        self.live += 1
        self.most_live = max(self.live, self.most_live)
        return _CountingSession(self)

    def versions(self) -> dict[str, str]:
        return {"counting": "1"}


class _CountingSession(Session):
    def __init__(self, profiler: CountingProfiler) -> None:
        self.profiler = profiler

    def call(self) -> None:
        self.profiler.calls += 1

    def output(self) -> NDArray[np.float32]:
        return np.zeros(0, np.float32)

    def close(self) -> None:
        self.profiler.live -= 1


class PricedProfiler(CountingProfiler):
    """Stands in for a runtime on which a network takes the sum of its blocks' prices."""

    def open(self, network: Network) -> Session:
        super().open(network)
        return _PricedSession(self, round(1e6 * sum(map(random_price, network))))


class _PricedSession(_CountingSession):
    def __init__(self, profiler: CountingProfiler, call_ns: int) -> None:
        super().__init__(profiler)
        self.call_ns = call_ns

    def timed_call(self) -> int:
        self.call()
        return self.call_ns


class _LoggingSession(_CountingSession):
    def __init__(self, profiler: CountingProfiler, log: list[str]) -> None:
        super().__init__(profiler)
        self.log = log

    def call(self) -> None:
        self.log.append("call")


def _drawn(space: SearchSpace, count: int, *, seed: int) -> list[Network]:
    """Random networks of a space."""
    rng = np.random.default_rng(seed)
    return [space.lower(space.random(rng)) for _ in range(count)]


def _run(
    profiler: Profiler, path: Path, space: SearchSpace, *, limit_s: float = 600
) -> ProfileResult:
    return profile_space(profiler, path, space, time_limit_s=limit_s)


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a table of the tiny space that ONNX Runtime has filled in one pass."""
    folder = tmp_path_factory.mktemp("profiled")
    made = _run(make_profiler(make_quick_profile()), folder / "t", make_tiny_space(), limit_s=1e-3)
    assert (made.stopped, made.passes) == ("time limit", SCAN_PASSES + 1)
    assert made.measured + made.interpolated == made.blocks
    assert made.noisy  # one visit says nothing of its own doubt
    return (folder / "t").read_bytes()


@pytest.fixture
def profiled(tmp_path: Path, one_pass: bytes) -> Path:
    """A copy of that table."""
    (tmp_path / "t.sqlite").write_bytes(one_pass)
    return tmp_path / "t.sqlite"


def test_a_visit_makes_the_calls_it_is_asked_for(profile: DeviceProfile) -> None:
    profiler = CountingProfiler(profile)
    session = profiler.open(())
    p = profile.sweep
    taken = visit(session, p, dwell_ms=0, flush=CacheFlusher(64))
    assert (len(taken.hot_ns), len(taken.cold_ns)) == (p.hot_calls, p.cold_calls)
    assert profiler.calls == p.warmup_calls + p.hot_calls + p.cold_calls
    assert visit(session, p, dwell_ms=0, flush=None).cold_ns == ()
    assert len(visit(session, p, dwell_ms=5, flush=None).hot_ns) > p.hot_calls


def test_a_visit_takes_the_time_that_the_session_tells(profile: DeviceProfile) -> None:
    """Sessions on other devices have their own clock."""

    class OwnClock(_CountingSession):
        def timed_call(self) -> int:
            self.call()
            return 7

    taken = visit(
        OwnClock(CountingProfiler(profile)), profile.sweep, dwell_ms=0, flush=lambda: None
    )
    assert {*taken.hot_ns, *taken.cold_ns} == {7}


def test_the_cache_of_the_device_is_flushed_before_each_cold_call(
    quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    log: list[str] = []

    class Flushing(CountingProfiler):
        def open(self, network: Network) -> Session:
            return _LoggingSession(self, log)

        def cache_flusher(self) -> Flush:
            return lambda: log.append("flush")

    block = tiny_space.blocks()[0]
    sweep_pass(Flushing(quick_profile), [block_target(0, (block,), quick_profile.sweep)], number=0)
    assert log == ["call", "call", "flush", "call"]  # untimed, hot, cold


def test_visits_that_are_distrusted_are_made_again(
    quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """As on a GPU whose clock is too low for a while."""

    class Unsteady(CountingProfiler):
        bad = 3

        def distrust(self) -> str | None:
            self.bad -= 1
            return "too hot" if self.bad >= 0 else None

    blocks = tiny_space.blocks()
    targets = [block_target(i, (b,), quick_profile.sweep) for i, b in enumerate(blocks)]
    reported: list[int] = []
    profiler = Unsteady(quick_profile)
    record = sweep_pass(profiler, targets, number=0, on_visit=lambda done, _: reported.append(done))
    assert sorted(id_ for id_, _ in record.visits) == list(range(len(blocks)))
    assert len(profiler.opened) == len(blocks) + 3
    assert reported == list(range(1, len(blocks) + 1))
    profiler.bad = 10**6
    with pytest.raises(RuntimeFailure, match="do not count: too hot"):
        sweep_pass(profiler, targets, number=1)
    assert profiler.live == 0


def test_what_could_not_be_done_as_asked_stays_in_the_table(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """Also where a later run has no such trouble: the visits of the earlier one stay, too."""

    class Remarking(CountingProfiler):
        said: ClassVar[list[str]] = []

        def remarks(self) -> list[str]:
            return self.said

    path = tmp_path / "t.sqlite"
    troubled = Remarking(quick_profile)
    troubled.said = ["It was not held."]
    _run(troubled, path, tiny_space)
    assert LatencyTable.open(path).environment.remarks == ["It was not held."]
    _run(Remarking(quick_profile), path, tiny_space)
    assert LatencyTable.open(path).environment.remarks == ["It was not held."]


def test_remarks_of_a_verification_and_a_calibration_stay_in_the_table(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_fixed_space: SearchSpace
) -> None:
    class Remarking(CountingProfiler):
        said = ""

        def remarks(self) -> list[str]:
            return [self.said] if self.calls and self.said else []

    path, profiler = tmp_path / "t.sqlite", Remarking(quick_profile)
    _run(profiler, path, tiny_fixed_space, limit_s=1e-3)
    drawn = _drawn(tiny_fixed_space, 2, seed=7)
    profiler.said = "It was not verified as asked."
    verify(profiler, LatencyTable.open(path), drawn[:1])
    profiler.said = "It was not calibrated as asked."
    calibrate(profiler, LatencyTable.open(path), drawn[1:])
    assert LatencyTable.open(path).environment.remarks == [
        "It was not verified as asked.",
        "It was not calibrated as asked.",
    ]


def test_the_environment_is_read_while_the_device_is_held(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_fixed_space: SearchSpace
) -> None:
    """Reading the clock of a GPU keeps it at work, which would disturb another measurement."""

    class Asking(CountingProfiler):
        asked = 0

        def environment(self) -> Environment:
            self.asked += 1
            with pytest.raises(DeviceBusyError), device_lock("cpu"):
                pass
            return super().environment()

    path, profiler = tmp_path / "t.sqlite", Asking(quick_profile)
    _run(profiler, path, tiny_fixed_space, limit_s=1e-3)
    drawn = _drawn(tiny_fixed_space, 2, seed=7)
    before = profiler.asked
    verify(profiler, LatencyTable.open(path), drawn[:1])
    calibrate(profiler, LatencyTable.open(path), drawn[1:])
    require_device(profiler, LatencyTable.open(path))
    assert profiler.asked == before + 3


def test_a_time_limit_ends_a_slow_pass_between_two_visits(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_fixed_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Visits become ten times slower in the second pass; those that were made are kept."""
    clock = [0.0]
    monkeypatch.setattr(latbench.workflows.profiling, "monotonic", lambda: clock[0])

    class Slow(CountingProfiler):
        def open(self, network: Network) -> Session:
            clock[0] += 1.0 if len(self.opened) < whole else 10.0
            return super().open(network)

    whole = len(tiny_fixed_space.blocks()) + quick_profile.sweep.networks
    path, profiler = tmp_path / "t.sqlite", Slow(quick_profile)
    result = _run(profiler, path, tiny_fixed_space, limit_s=2.0 * whole)
    assert (result.stopped, result.passes) == ("time limit", 2)
    assert 2 * whole <= clock[0] < 2 * whole + 10
    assert result.measured == len(tiny_fixed_space.blocks())
    with TableStore.open(path) as store:
        visited = [id_ for id_, _ in store.visits(store.sweeps("profile", done=False)[0])]
    assert len(visited) == len(profiler.opened)
    assert len(set(visited)) == whole < len(visited) < 2 * whole


def test_a_pass_visits_every_target_in_a_new_order(
    quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    profiler = CountingProfiler(quick_profile)
    blocks = tiny_space.blocks()
    targets = [block_target(i, (b,), quick_profile.sweep) for i, b in enumerate(blocks)]
    network = tiny_space.lower(tiny_space.largest())
    targets.append(network_target(999, network, quick_profile.sweep, visits=3))
    first, again, second = (sweep_pass(profiler, targets, number=n) for n in (0, 0, 1))
    orders = [[id_ for id_, _ in record.visits] for record in (first, again, second)]
    assert sorted(orders[0]) == [*range(len(blocks)), 999, 999, 999]
    assert orders[0] == orders[1] != orders[2]
    assert profiler.most_live == 1


def test_profiling_resumes_where_it_was(
    profiled: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    passes = _passes(profiled)
    rest = _run(make_profiler(quick_profile), profiled, tiny_space)
    assert passes < rest.passes <= passes + quick_profile.sweep.max_passes
    assert rest.stopped in ("converged", "pass limit")


@pytest.mark.parametrize(("limit_s", "off"), [(1e-3, 0.02), (1500.0, 0.4), (1e9, 0.1)])
def test_the_time_left_that_is_shown_is_what_is_left(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
    limit_s: float,
    off: float,
) -> None:
    """Every visit takes a second: the first pass is finished, whatever the limit."""
    clock, reports = [0.0], []
    for module in (latbench.workflows.profiling, latbench.progress):
        monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    monkeypatch.setattr(latbench.workflows.profiling, "_FIT_S", 0.0)
    monkeypatch.setattr(PassPlan, "is_converged", lambda self, samples: False)

    def slow(*args: Any, on_visit: Callable[[int, int], None], **others: Any) -> PassRecord:
        begin = clock[0]

        def visited(done: int, total: int) -> None:
            clock[0] = begin + done
            on_visit(done, total)

        record = sweep_pass(*args, on_visit=visited, **others)
        record.seconds = clock[0] - begin
        return record

    monkeypatch.setattr(latbench.workflows.recorded_passes, "sweep_pass", slow)
    sweep = msgspec.structs.replace(
        quick_profile.sweep, scan_passes=SweepProtocol().scan_passes, max_passes=4
    )
    profile_space(
        PricedProfiler(msgspec.structs.replace(quick_profile, sweep=sweep)),
        tmp_path / "t.sqlite",
        tiny_space,
        time_limit_s=limit_s,
        progress=lambda fraction, words: reports.append((clock[0], fraction, words)),
    )
    whole_s = clock[0]
    *during, (_, last, _) = reports
    assert last == 1.0
    assert [fraction for _, fraction, _ in during] == sorted(fraction for _, fraction, _ in during)
    for elapsed_s, fraction, words in during:
        assert fraction < 0.9 or elapsed_s > 0.8 * whole_s
        if words.startswith("pass"):
            left_s = words.left_s
            assert left_s == pytest.approx(whole_s - elapsed_s, abs=off * whole_s)


def test_a_table_goes_on_with_more_networks_and_loses_none(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`[sweep] networks` of the profile is changed between two runs, and changed back."""
    path, rng = tmp_path / "t.sqlite", np.random.default_rng(11)

    def profiler_of(networks: int) -> Profiler:
        sweep = msgspec.structs.replace(quick_profile.sweep, networks=networks)
        return PricedProfiler(msgspec.structs.replace(quick_profile, sweep=sweep))

    def visits(store: TableStore) -> list[Any]:
        return [row for sweep in store.sweeps("profile", done=False) for row in store.visits(sweep)]

    drawn = [tiny_space.lower(tiny_space.random(rng)) for _ in range(3)]
    _run(profiler_of(6), path, tiny_space)
    calibrate(profiler_of(6), LatencyTable.open(path), drawn[:2])
    with TableStore.open(path) as store:
        first, seen = store.networks("profile"), visits(store)
    with monkeypatch.context() as patched:  # registered, and never visited
        patched.setattr(
            latbench.workflows.recorded_passes, "sweep_pass", interrupted_at(_passes(path))
        )
        _run(profiler_of(9), path, tiny_space)
    verify(profiler_of(9), LatencyTable.open(path), drawn[2:])
    result = _run(profiler_of(9), path, tiny_space)
    assert result.stopped in ("converged", "pass limit")
    with TableStore.open(path) as store:
        more = store.networks("profile")
        assert visits(store)[: len(seen)] == seen
    assert len(more) == 9
    assert first.items() <= more.items()
    table = LatencyTable.open(path)
    assert set(more.values()) < set(table.networks)
    assert table.price_model.networks == 9 + 2
    found = verify(profiler_of(9), table, [tiny_space.lower(tiny_space.random(rng))])
    assert found.drift is not None
    _run(profiler_of(6), path, tiny_space, limit_s=1e-3)
    with TableStore.open(path) as store:
        assert store.networks("profile") == more
    assert LatencyTable.open(path).price_model.networks == 11


def _passes(path: Path) -> int:
    with TableStore.open(path) as store:
        sweep = store.profiling()
        return 0 if sweep is None else store.passes(sweep)


def test_visits_of_two_machines_are_not_pooled(
    profiled: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, profiler = profiled, make_profiler(quick_profile)
    before = path.read_bytes()
    monkeypatch.setattr(profiler, "versions", lambda: {"onnxruntime": "0.0"})
    with pytest.raises(MismatchError, match=r"onnxruntime is 0\.0"):
        _run(profiler, path, tiny_space)
    monkeypatch.setattr("latbench.environment._cpu_model", lambda: "Z80")
    with pytest.raises(MismatchError, match="Z80"):
        verify(profiler, LatencyTable.open(path), [tiny_space.lower(tiny_space.largest())])
    assert path.read_bytes() == before


def test_an_interrupted_verification_goes_on_with_the_same_version_only(
    profiled: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, network = LatencyTable.open(profiled), tiny_space.lower(tiny_space.largest())
    sweep = msgspec.structs.replace(quick_profile.sweep, verify_visits=2)
    profiler = make_profiler(msgspec.structs.replace(quick_profile, sweep=sweep))
    monkeypatch.setattr(network_sweep, "_SHORT_MS", inf)  # 3 passes, whatever the table measured

    def numbers(limit_s: float = inf) -> list[int]:
        """The passes that a verification makes."""
        made: list[int] = []

        def spied(*args: Any, number: int, **others: Any) -> PassRecord:
            if len(made) == 2:
                raise KeyboardInterrupt
            made.append(number)
            return sweep_pass(*args, number=number, **others)

        monkeypatch.setattr(latbench.workflows.recorded_passes, "sweep_pass", spied)
        with suppress(KeyboardInterrupt):
            verify(profiler, table, [network], limit_s=limit_s)
        return made

    assert numbers() == [0, 1]
    monkeypatch.setattr(profiler, "versions", lambda: {"onnxruntime": "0.0"})
    assert numbers() == [0, 1]
    assert numbers() == [2]
    assert numbers(limit_s=1e-9) == [0]  # a new sweep, ended by the time limit


def test_visits_on_two_gpus_are_not_pooled() -> None:
    before = msgspec.structs.replace(current_environment({}), gpu=_gpu("A100", "550.1"))
    now = msgspec.structs.replace(before, gpu=_gpu("H100", "580.2"))
    assert now.differences(before) == [
        "GPU name is H100, was A100",
        "GPU driver is 580.2, was 550.1",
    ]
    cooler = msgspec.structs.replace(before, gpu=_gpu("A100", "550.1", clock_mhz=900))
    assert cooler.differences(before) == []


def test_environments_of_before_there_were_gpus_are_read() -> None:
    now = current_environment({})
    written = msgspec.to_builtins(now)
    del written["gpu"], written["remarks"]
    assert msgspec.convert(written, Environment) == now


def _gpu(name: str, driver: str, *, clock_mhz: int = 1400) -> Gpu:
    return Gpu(name, driver, clock_mhz, 1400, throttled_by=[])


def interrupted_at(fatal: int) -> Callable[..., PassRecord]:
    """A ``sweep_pass`` that Ctrl-C ends in the pass of this number."""

    def interrupted(
        profiler: Profiler, targets: Sequence[Target], *, number: int, **others: Any
    ) -> PassRecord:
        if number == fatal:
            raise KeyboardInterrupt
        return sweep_pass(profiler, targets, number=number, **others)

    return interrupted


def test_ctrl_c_saves_the_finished_passes(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "t.sqlite"
    monkeypatch.setattr(
        latbench.workflows.recorded_passes, "sweep_pass", interrupted_at(SCAN_PASSES + 2)
    )
    result = _run(PricedProfiler(quick_profile), path, tiny_space)
    assert (result.stopped, result.passes) == ("interrupted", SCAN_PASSES + 2)
    table = LatencyTable.open(path)
    assert all(spec in table for spec in tiny_space.blocks(every_width))


def test_another_device_or_space_is_refused(
    profiled: Path, quick_profile: DeviceProfile, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    path, profiler = profiled, make_profiler(quick_profile)
    before = path.read_bytes()
    with pytest.raises(MismatchError, match="table of quick"):
        _run(make_profiler(profile), path, tiny_space)
    other = SearchSpace("other", 8, 10, tiny_space.stem, tiny_space.stages, tiny_space.head)
    with pytest.raises(MismatchError, match="not other"):
        _run(profiler, path, other)
    assert path.read_bytes() == before


def test_a_table_has_the_protocol_of_its_last_profiling(
    profiled: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    sweep = msgspec.structs.replace(quick_profile.sweep, design="sequential", quantile=0.1)
    again = msgspec.structs.replace(quick_profile, sweep=sweep)
    _run(make_profiler(again), profiled, tiny_space, limit_s=1e-3)
    assert LatencyTable.open(profiled).device == again


def test_a_busy_device_leaves_no_file(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    path = tmp_path / "t.sqlite"
    with device_lock("cpu"), pytest.raises(DeviceBusyError):
        _run(make_profiler(quick_profile), path, tiny_space)
    assert not path.exists()


def test_an_interrupt_before_the_first_pass_leaves_no_file(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latbench.workflows.recorded_passes, "sweep_pass", interrupted_at(0))
    with pytest.raises(KeyboardInterrupt):
        _run(make_profiler(quick_profile), tmp_path / "t.sqlite", tiny_space)
    assert list(tmp_path.iterdir()) == []


def test_verification_compares_what_it_measures(
    profiled: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    profiler = make_profiler(quick_profile)
    table = LatencyTable.open(profiled)
    networks = _drawn(tiny_space, 3, seed=7)
    result = verify(profiler, table, networks)
    assert len(result.networks) == 3
    for network, row in zip(networks, result.networks, strict=True):
        assert row.predicted == table.predict(network)
        ratio = row.predicted.latency_ms / row.measured.estimate_ms
        assert row.error == pytest.approx(ratio - 1)
    errors = [row.error for row in result.networks]
    assert result.mape == pytest.approx(np.abs(errors).mean())
    assert result.bias == pytest.approx(np.mean(errors))
    assert result.drift is not None
    assert result.mape_drift_corrected is not None


def test_a_machine_that_is_known_is_predicted_and_ranked(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    profiler, path = PricedProfiler(quick_profile), tmp_path / "t.sqlite"
    _run(profiler, path, tiny_space)
    rng = np.random.default_rng(7)
    networks = list(dict.fromkeys(tiny_space.lower(tiny_space.random(rng)) for _ in range(6)))
    true_ms = [sum(map(random_price, network)) for network in networks]
    result = verify(profiler, LatencyTable.open(path), networks)
    measured_ms = [row.measured.estimate_ms for row in result.networks]
    assert measured_ms == pytest.approx(true_ms, rel=1e-4)
    assert result.spread == pytest.approx(max(true_ms) / min(true_ms), rel=1e-4)
    assert (result.drift, result.floor) == pytest.approx((1.0, 0.0), abs=1e-4)
    assert 0 <= abs(result.bias) <= result.mape <= result.max_error < 0.2
    assert result.kendall_tau is not None and result.kendall_tau > 0.7
    assert (result.coverage, result.interval_width) == (None, None)


def test_a_space_without_elastic_widths_is_measured_whole(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_fixed_space: SearchSpace
) -> None:
    """Two expansions of one shape are two operations, and nothing lies between them."""
    space, path = tiny_fixed_space, tmp_path / "t.sqlite"
    profiler = make_profiler(quick_profile)
    assert forecast(profiler, space_contents(space, 6), time_limit_s=60).measured == len(
        space.blocks()
    )
    result = _run(profiler, path, space)
    assert (result.measured, result.interpolated) == (len(space.blocks()), 0)
    assert (result.alignment, result.heldout_error) == ("no elastic widths", None)
    assert _run(profiler, path, space).measured == result.measured
    table = LatencyTable.open(path)
    priced = PricedSpace(space, table, efficient=True)
    drawn = [priced.space.random(np.random.default_rng(seed), priced.widths) for seed in (3, 4)]
    verified = verify(profiler, table, [space.lower(architecture) for architecture in drawn])
    for architecture, row in zip(drawn, verified.networks, strict=True):
        assert row.predicted.latency_ms == priced.latency_ms(architecture)
    fastest, slowest = priced.extremes()
    assert priced.latency_ms(fastest) < priced.latency_ms(slowest)


def test_networks_without_a_price_are_measured_beside_others(
    profiled: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    table, own = LatencyTable.open(profiled), tiny_space.lower(tiny_space.smallest())
    classifier = msgspec.structs.replace(own[-1], classes=own[-1].classes + 1)
    foreign = (*own[:-1], classifier)
    assert classifier not in table
    profiler = make_profiler(quick_profile)
    found = measure_networks(profiler, table, [foreign, own], purpose="verification").measured
    assert len(found) == 2
    assert min(each.estimate_ms for each in found) > 0


def test_a_process_of_its_own_verifies_and_passes_errors_on(
    tmp_path: Path, profiled: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    network = tiny_space.lower(tiny_space.random(np.random.default_rng(7)))
    reported: list[float] = []
    result = verify_apart(
        profiled, [network], progress=lambda fraction, _: reported.append(fraction)
    )
    assert result.networks[0].predicted == LatencyTable.open(profiled).predict(network)
    assert reported[-1] == 1.0
    with pytest.raises(MismatchError, match="fitted on"):
        verify_apart(profiled, [next(iter(LatencyTable.open(profiled).networks))])
    unknown = msgspec.structs.replace(quick_profile, runtime="onnxrutnime")
    other = tmp_path / "other.sqlite"
    write_table(other, tiny_space, unknown)
    with pytest.raises(UnknownNameError, match="onnxruntime") as caught:
        verify_apart(other, [network])
    assert caught.value.choices == list(PROFILERS)


def test_networks_that_were_fitted_on_verify_nothing(
    profiled: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    profiler = make_profiler(quick_profile)
    table = LatencyTable.open(profiled)
    with pytest.raises(MismatchError, match="fitted on"):
        verify(profiler, table, [next(iter(table.networks))])


def test_drift_is_taken_out_in_the_right_direction(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """A machine that is twice as fast as when it was profiled: a drift of one half."""
    profiler, path = PricedProfiler(quick_profile), tmp_path / "t.sqlite"
    _run(profiler, path, tiny_space)
    table = LatencyTable.open(path)
    for network, estimate in table.networks.items():
        table.networks[network] = replace(estimate, hot_ms=2 * estimate.hot_ms)
    network = tiny_space.lower(tiny_space.random(np.random.default_rng(1)))
    result = verify(profiler, table, [network])
    assert result.drift is not None
    assert result.drift == pytest.approx(0.5)
    row = result.networks[0]
    assert row.error_drift_corrected is not None
    assert row.error_drift_corrected < row.error


def test_calibration_adds_networks_and_an_interval(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted and resumed, it measures each pass once; what was profiled stays as it is."""
    sweep = msgspec.structs.replace(
        quick_profile.sweep, hot_calls=3, network_visits=2, verify_visits=8
    )
    profiler = PricedProfiler(msgspec.structs.replace(quick_profile, sweep=sweep))
    path = tmp_path / "t.sqlite"
    _run(profiler, path, tiny_space)
    before = LatencyTable.open(path)
    networks = _drawn(tiny_space, 12, seed=5)
    monkeypatch.setattr(latbench.workflows.recorded_passes, "sweep_pass", interrupted_at(2))
    with pytest.raises(KeyboardInterrupt):
        calibrate(profiler, before, networks)
    assert LatencyTable.open(path).fit == before.fit
    monkeypatch.undo()
    stored = calibrate(profiler, before, networks)
    after = LatencyTable.open(path)
    assert after.fit == stored
    assert stored.calibrated
    assert stored.price.networks == len({*networks, *before.networks})
    assert after.estimates == {
        spec: replace(estimate, noisy=after.estimates[spec].noisy)
        for spec, estimate in before.estimates.items()
    }
    with TableStore.open(path) as store:
        (sweep,) = store.sweeps("calibration")
        assert (
            store.passes(sweep) == 10
        )  # 2 visits each: 2.5 times 8, because the networks are short
    network = tiny_space.lower(tiny_space.random(np.random.default_rng(99)))
    assert before.predict(network).low_ms is None
    predicted = after.predict(network)
    assert predicted.low_ms is not None
    assert predicted.high_ms is not None
    assert predicted.low_ms < predicted.latency_ms < predicted.high_ms


class SlowedProfiler(PricedProfiler):
    """A machine that is slower in some hours, and for some networks always."""

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        self.hour, self.slower = 1.0, frozenset[BlockSpec]()

    def open(self, network: Network) -> Session:
        session = super().open(network)
        assert isinstance(session, _PricedSession)
        prices_ms = (linear_price(spec) * (1 + 0.1 * (spec in self.slower)) for spec in network)
        session.call_ns = round(1e6 * self.hour * sum(prices_ms))
        return session


def linear_price(spec: BlockSpec) -> float:
    """A price in ms that is a line over widths."""
    kind = msgspec.structs.replace(spec, width=0) if hasattr(spec, "width") else spec
    return random_price(kind) + 0.002 * (block_width(spec) or 0)


def test_a_calibration_in_a_slower_hour_is_converted_to_that_of_the_profiling(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    profiler, path = SlowedProfiler(quick_profile), tmp_path / "t.sqlite"
    _run(profiler, path, tiny_space)
    before = LatencyTable.open(path)
    networks = _drawn(tiny_space, 4, seed=5)
    profiler.hour = 1.25
    calibrate(profiler, before, networks)
    after = LatencyTable.open(path)
    for network in networks:
        assert after.networks[network].hot_ms == pytest.approx(
            sum(map(linear_price, network)), rel=1e-3
        )
    assert after.fit.drifts == pytest.approx((1.25,), rel=1e-3)


def test_a_calibration_that_was_stopped_at_its_fit_measures_nothing_again(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profiler, path = PricedProfiler(quick_profile), tmp_path / "t.sqlite"
    _run(profiler, path, tiny_space)
    networks = _drawn(tiny_space, 4, seed=5)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(network_errors, "work_out", stopped)
    with pytest.raises(KeyboardInterrupt):
        calibrate(profiler, LatencyTable.open(path), networks)
    monkeypatch.undo()
    opened = len(profiler.opened)
    fit = calibrate(profiler, LatencyTable.open(path), networks)
    assert len(profiler.opened) == opened
    assert fit.calibrated
    assert LatencyTable.open(path).networks.keys() >= set(networks)


def test_only_the_last_confirmation_of_a_budget_is_fitted_on(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """Whoever asked for it; sweeps of older tables, which name no budget, by who asked."""
    path = tmp_path / "t.sqlite"
    _run(PricedProfiler(quick_profile), path, tiny_space)
    with TableStore.open(path) as store:
        swept = []
        for detail in ("a x 0.5", "b y 0.5", "c z 0.7", "old x", "old y"):
            sweep = store.begin_sweep("confirmation", store.environment, detail=detail)
            store.finish_sweep(sweep)
            swept.append(sweep)
        assert estimation._last_confirmations(store) == [swept[1], swept[2], swept[4]]


def test_held_out_widths_are_compared_with_widths_between(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """Prices are lines over widths, but those of held-out widths are 10 % above them."""
    profiler, path = SlowedProfiler(quick_profile), tmp_path / "t.sqlite"
    _run(profiler, path, tiny_space)
    assert LatencyTable.open(path).fit.held_out_error == pytest.approx(0, abs=1e-3)
    with TableStore.open(path) as store:
        profiler.slower = frozenset(store.blocks("held-out").values())
    assert profiler.slower
    _run(profiler, tmp_path / "again.sqlite", tiny_space)
    fit = LatencyTable.open(tmp_path / "again.sqlite").fit
    assert len(fit.held_out_errors) == len(profiler.slower)
    assert np.mean(fit.held_out_errors) == pytest.approx(1 / 1.1 - 1, abs=0.02)


def test_intervals_are_counted_that_hold_the_measured_latency(tiny_space: SearchSpace) -> None:
    networks = _drawn(tiny_space, 4, seed=2)
    measured = tuple(Interval(ms, ms, ms) for ms in (1.0, 1.0, 1.0, 1.0))
    predicted = [
        Prediction(1.0, 0.9, 1.1),
        Prediction(1.2, 1.1, 1.3),  # all above
        Prediction(0.8, 0.7, 0.9),  # all below
        Prediction(1.0, None, None),
    ]
    found = network_errors._summarise(networks, predicted, MeasuredNetworks(measured, None, None))
    assert found.coverage == pytest.approx(1 / 3)
    assert found.interval_width == pytest.approx(np.mean([0.2, 0.2 / 1.2, 0.2 / 0.8]))
    assert (found.mape, found.bias) == pytest.approx((0.1, 0.0))


def test_a_drift_of_two_numbers_is_found_and_undone() -> None:
    rng = np.random.default_rng(1)
    then, size = rng.uniform(0.5, 2.0, 12), rng.uniform(4e6, 2e7, 12)
    now = 1.05 * then + 2e-9 * size
    drift = Drift.between(list(then), list(now), list(size))
    assert drift is not None
    assert (drift.scale, drift.ms_per_byte) == pytest.approx((1.05, 2e-9))
    assert drift.then_ms(drift.now_ms(1.3, 9e6), 9e6) == pytest.approx(1.3)
    assert drift.ratio == pytest.approx(np.exp(np.log(now / then).mean()))
    assert Drift.between([], [], []) is None


def test_a_full_disk_loses_no_finished_pass(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "t.sqlite"
    real = TableStore.add_pass

    def full(self: TableStore, sweep: int, record: PassRecord) -> None:
        if record.number == SCAN_PASSES + 1:
            pages = self._db.execute("PRAGMA page_count").fetchone()[0]
            self._db.execute(f"PRAGMA max_page_count = {pages}")
        real(self, sweep, record)

    monkeypatch.setattr(TableStore, "add_pass", full)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        _run(PricedProfiler(quick_profile), path, tiny_space)
    monkeypatch.undo()
    with TableStore.open(path) as store:
        (sweep,) = store.sweeps("profile", done=False)
        assert store.passes(sweep) == SCAN_PASSES + 1
    assert _run(PricedProfiler(quick_profile), path, tiny_space).passes > SCAN_PASSES + 1


def test_a_device_that_disappears_loses_no_finished_pass(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    class Vanishing(CountingProfiler):
        def open(self, network: Network) -> Session:
            if len(self.opened) == 600:
                raise RuntimeFailure("the device is gone")
            return super().open(network)

    path = tmp_path / "t.sqlite"
    with pytest.raises(RuntimeFailure, match="gone"):
        _run(Vanishing(quick_profile), path, tiny_space)
    with TableStore.open(path) as store:
        (sweep,) = store.sweeps("profile", done=False)
        assert store.passes(sweep) > 0
    _run(CountingProfiler(quick_profile), path, tiny_space)
    LatencyTable.open(path)


def test_a_forecast_opens_few_sessions_and_writes_nothing(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    profiler = CountingProfiler(quick_profile)
    expected = forecast(profiler, space_contents(tiny_space, 6), time_limit_s=60)
    assert len(profiler.opened) < 100
    assert expected.blocks == len(tiny_space.blocks(every_width))
    done = _run(CountingProfiler(quick_profile), tmp_path / "t.sqlite", tiny_space)
    assert expected.measured == pytest.approx(done.measured, rel=0.6)
    least_s = quick_profile.sweep.min_passes * expected.pass_s
    assert expected.minutes == pytest.approx(least_s / 60)


def test_without_probes_there_is_no_drift(
    tiny_table: LatencyTable, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    profiler = make_profiler(tiny_table.device)
    result = verify(profiler, tiny_table, [tiny_space.lower(tiny_space.smallest())])
    assert (result.drift, result.mape_drift_corrected) == (None, None)


def test_a_table_finds_what_is_not_to_be_trusted(
    tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    bad = tiny_space.blocks()[3]
    table = write_table(
        tmp_path / "t.sqlite",
        tiny_space,
        profile,
        prices=lambda spec: -0.1 if spec == bad else 0.1,
    )
    now = table.environment
    assert len(table.check(now).negative) == 1
    assert table.check(now).entries == len(tiny_space.blocks())
    assert not table.check(now).passed
    other = current_environment({"onnxruntime": "0.0"})
    assert table.check(other).stale == ("onnxruntime is 0.0, was None",)


def test_a_table_of_a_runtime_that_is_not_installed_is_checked(
    profiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = LatencyTable.open(profiled)
    foreign = msgspec.structs.replace(table.device, runtime="of-a-package")
    monkeypatch.setattr(table, "device", foreign)
    assert latbench.check_table(table).entries == table.check(None).entries


def test_a_prediction_is_the_sum_of_its_prices(
    tiny_table: LatencyTable, tiny_space: SearchSpace
) -> None:
    network = tiny_space.lower(tiny_space.largest())
    expected = sum(map(tiny_table.price_ms, network)) + tiny_table.price_model.network_ms
    assert tiny_table.predict(network).latency_ms == pytest.approx(expected)


def test_an_unknown_block_has_no_price(tiny_table: LatencyTable) -> None:
    space = SearchSpace("x", 8, 10, tiny_table_stem(), (), ())
    with pytest.raises(MismatchError, match="does not price"):
        tiny_table.predict(space.stem)


def tiny_table_stem() -> Network:
    from latbench.blocks import ConvBlock

    return (ConvBlock(3, 99, 3, 1, "relu", 8),)
