"""Sweeps of candidates and references: what they measure, when they end, what the table keeps."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import latbench.workflows.recorded_passes
from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.measure.swept_networks import SweptNetwork, SweptNetworks, interval, spread
from latbench.tables import LatencyTable, TableStore
from latbench.workflows.network_errors import calibrate, verify
from latbench.workflows.verdict_sweep import (
    LEAST_PASSES,
    REFERENCES,
    Narrowing,
    SweepRule,
    sweep_apart,
    sweep_networks,
)
from nas.spaces import SearchSpace
from tests.conftest import make_tiny_space, profile_space, random_price
from tests.latbench.workflows.test_profiling import PricedProfiler


@pytest.fixture
def profiler(quick_profile: DeviceProfile) -> PricedProfiler:
    return PricedProfiler(quick_profile)


@pytest.fixture
def table(tmp_path: Path, profiler: PricedProfiler, tiny_space: SearchSpace) -> LatencyTable:
    path = tmp_path / "t.sqlite"
    profile_space(profiler, path, tiny_space, time_limit_s=600)
    return LatencyTable.open(path)


def _networks(count: int, seed: int = 5) -> list[Network]:
    space, rng = make_tiny_space(), np.random.default_rng(seed)
    return [space.lower(space.random(rng)) for _ in range(count)]


def test_candidates_and_references_are_measured_together(
    table: LatencyTable, profiler: PricedProfiler
) -> None:
    """The references are those of the profiling that are nearest to the budget."""
    networks = _networks(3)
    reported: list[float] = []
    rule = SweepRule("selection", 1.0, "loop")
    found = sweep_networks(
        profiler, table, networks, rule, progress=lambda done, _: reported.append(done)
    )
    true_ms = [sum(map(random_price, network)) for network in networks]
    assert [each.latency_ms for each in found.networks] == pytest.approx(true_ms, rel=1e-5)
    known_ms = sorted((e.hot_ms for e in table.networks.values()), key=lambda ms: abs(ms - 1.0))
    assert list(found.references_then_ms) == known_ms[:REFERENCES]
    assert found.drift == pytest.approx(1.0)
    assert found.passes == LEAST_PASSES
    assert reported == sorted(reported)
    assert spread([found]) == 0.0


def test_prices_change_only_by_the_next_calibration(
    table: LatencyTable, profiler: PricedProfiler
) -> None:
    """It uses one network for each budget: the last one that was confirmed."""
    first, second, other, rejected = _networks(4)
    fit = table.fit
    sweep_networks(profiler, table, [first, rejected], SweepRule("selection", 1.0, "a"))
    for network, budget_ms, loop in ((first, 1.0, "a"), (second, 1.0, "b"), (other, 1.1, "a")):
        sweep_networks(profiler, table, [network], SweepRule("confirmation", budget_ms, loop))
    reopened = LatencyTable.open(table.path)
    assert reopened.fit == fit
    assert reopened.networks == table.networks
    drawn = _networks(12, seed=6)
    stored = calibrate(profiler, reopened, drawn)
    known = set(LatencyTable.open(table.path).networks)
    assert known == {*table.networks, *drawn, second, other}
    assert stored.price.networks == len(known)
    calibrated = LatencyTable.open(table.path)
    (again,) = verify(profiler, calibrated, [second]).networks
    assert again.predicted == calibrated.predict_left_out(second)
    assert stored.drifts == pytest.approx([1.0, 1.0, 1.0])  # a calibration and two budgets


def test_an_interrupted_sweep_goes_on(
    table: LatencyTable, profiler: PricedProfiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = latbench.workflows.recorded_passes.sweep_pass

    def interrupted(*arguments: object, **named: object) -> object:
        if named["number"] == 20:
            raise KeyboardInterrupt
        return real(*arguments, **named)  # type: ignore[arg-type]

    rule, networks = SweepRule("confirmation", 1.0, "loop"), _networks(1)
    with monkeypatch.context() as patched:
        patched.setattr(latbench.workflows.recorded_passes, "sweep_pass", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep_networks(profiler, table, networks, rule)
    found = sweep_networks(profiler, table, networks, rule)
    assert found.passes == LEAST_PASSES
    with TableStore.open(table.path) as store:
        (sweep,) = store.sweeps("confirmation")
        assert store.passes(sweep) == LEAST_PASSES


def test_a_sweep_with_other_references_begins_anew(
    table: LatencyTable, profiler: PricedProfiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table was profiled further between the two runs."""

    def stop(done: float, words: str, /) -> None:
        if words == "pass 2":
            raise KeyboardInterrupt

    rule, networks = SweepRule("confirmation", 1.0, "loop"), _networks(1)
    with pytest.raises(KeyboardInterrupt):
        sweep_networks(profiler, table, networks, rule, progress=stop)
    monkeypatch.setattr(latbench.workflows.verdict_sweep, "REFERENCES", REFERENCES - 1)
    found = sweep_networks(profiler, table, networks, rule)
    assert found.passes == LEAST_PASSES
    assert len(found.references) == REFERENCES - 1


def test_a_process_of_its_own_measures(tmp_path: Path, quick_profile: DeviceProfile) -> None:
    from latbench.profilers import make_profiler

    path, space = tmp_path / "t.sqlite", make_tiny_space()
    profile_space(make_profiler(quick_profile), path, space, time_limit_s=1e-3)
    far_above_ms = 1e6  # decided at the first look
    found = sweep_apart(path, _networks(2), SweepRule("confirmation", far_above_ms, "loop"))
    assert len(found.networks) == 2
    assert all(each.low_ms <= each.latency_ms <= each.high_ms for each in found.networks)


def _swept(
    latency_ms: float, *, off: float = 0.0, passes: int = LEAST_PASSES, seconds: float = 1.0
) -> SweptNetworks:
    """A sweep of one network whose parts differ by so much."""
    parts = tuple(latency_ms * (1 + step * off) for step in (-1.0, 1.0, -1.0, 1.0))
    network = SweptNetwork(latency_ms, latency_ms, latency_ms, parts)
    return SweptNetworks((network,), (), (), passes, seconds, 0.0)


@pytest.mark.parametrize(("latency_ms", "goes_on"), [(0.97, False), (0.999, True), (1.03, False)])
def test_a_confirmation_goes_on_while_its_verdict_is_open(
    latency_ms: float, *, goes_on: bool
) -> None:
    narrowing = Narrowing(SweepRule("confirmation", 1.0, "loop"))
    assert not narrowing.is_due(LEAST_PASSES - 1, 1.0)
    assert narrowing.is_due(LEAST_PASSES, 1.0)
    assert narrowing.goes_on(_swept(latency_ms, off=0.01)) == goes_on


def test_a_sweep_ends_where_it_does_not_narrow_or_its_time_is_up() -> None:
    rule = SweepRule("confirmation", 1.0, "loop")
    narrowing = Narrowing(rule)
    looks = [narrowing.goes_on(_swept(1.0, off=0.05, passes=40 * 2**n)) for n in range(3)]
    assert looks == [True, True, False]
    narrowing = Narrowing(rule)
    steps = [0.05 * 0.7**n for n in range(6)]
    assert all(narrowing.goes_on(_swept(1.0, off=o, passes=40 * 2**n)) for n, o in enumerate(steps))
    late = _swept(1.0, off=0.001, passes=9999, seconds=rule.limit_s)
    assert not narrowing.goes_on(late)


def test_networks_that_take_seconds_are_not_visited_for_hours() -> None:
    rule = SweepRule("selection", 1e4, "loop")
    slow = _swept(1e4, off=0.05, passes=9, seconds=4 * rule.limit_s)
    assert not Narrowing(rule).is_due(5, slow.seconds)
    assert Narrowing(rule).is_due(9, slow.seconds)
    assert not Narrowing(rule).goes_on(slow)


def test_an_interval_has_the_scatter_of_visits_and_the_drift_of_the_machine() -> None:
    """On both ends the wider one; drift shows within a sweep and between sweeps."""
    rng = np.random.default_rng(0)
    scattered = 1 + rng.exponential(0.5, (1, 40))
    (network,) = SweptNetwork.of(scattered, 0.05)
    assert interval(network, 0.0).high_ms == network.high_ms
    wide = interval(network, 0.3)
    assert wide.high_ms == pytest.approx(1.72 * network.latency_ms)
    assert wide.low_ms == pytest.approx(0.28 * network.latency_ms)
    still = _swept(1.0)
    assert spread([still]) == 0.0
    assert spread([_swept(1.0, off=0.02)]) == pytest.approx(0.02 * np.sqrt(4 / 3) / 2, rel=1e-3)
    changed = [
        SweptNetworks(still.networks, _swept(ms).networks * 2, (1.0, 1.0), 32, 1.0, 60.0 * number)
        for number, ms in enumerate((1.0, 1.1))
    ]
    assert spread(changed) == pytest.approx(np.log(1.1) / np.sqrt(2) / 2, rel=1e-6)
    old = msgspec.structs.replace(changed[0], finished_s=-1e5)
    assert spread([old, changed[1]]) == 0.0
