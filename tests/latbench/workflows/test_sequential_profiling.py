"""Profiling by the sequential design, on a simulated machine whose latencies are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import latbench.workflows.recorded_passes
from latbench.blocks import BlockSpec, Network, block_width
from latbench.device import DeviceProfile, SweepProtocol
from latbench.device_files import load_device
from latbench.measure.samples import Interval, Samples
from latbench.measure.sweep import PassRecord, sweep_pass
from latbench.measure.visiting import Target
from latbench.profilers import Profiler
from latbench.tables import LatencyTable, TableStore
from latbench.tables.alignment import Alignment, WidthClass
from latbench.tables.estimation import as_estimate, price_half_width
from latbench.tables.sweep_history import pass_noise
from latbench.tables.width_curves import Curves
from latbench.workflows.leverage import Leverage
from latbench.workflows.pass_plan import PassPlan
from nas.spaces import SearchSpace, every_width
from tests.conftest import profile_space
from tests.simulated_machine import Noise, SimulatedMachine, keep_time

SHORT = {
    "min_passes": 10,
    "max_passes": 14,
    "scan_passes": 2,
    "networks": 6,
    "network_tolerance": 1e-4,  # none converges
}


def _device(**sweep: Any) -> DeviceProfile:
    return msgspec.structs.replace(
        load_device("cpu-onnxruntime"),
        sweep=SweepProtocol(**{"design": "sequential", "network_dwell_ms": 1.0, **sweep}),
    )


def _visits(path: Path) -> list[Any]:
    with TableStore.open(path) as store:
        sweep = store.profiling()
        assert sweep is not None
        return list(store.numbered_visits(sweep))


def test_a_killed_profiling_that_goes_on_makes_the_visits_of_one_that_was_not(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filled(path: Path, kills: Sequence[int]) -> list[Any]:
        machine = SimulatedMachine(_device(**SHORT), Noise(), seed=1)
        left = list(kills)

        def killed(
            profiler: Profiler, targets: Sequence[Target], *, number: int, **others: Any
        ) -> PassRecord:
            if left and number == left[0]:
                left.pop(0)
                raise KeyboardInterrupt
            return sweep_pass(profiler, targets, number=number, **others)

        with pytest.MonkeyPatch.context() as patched:
            keep_time(machine, patched)
            patched.setattr(latbench.workflows.recorded_passes, "sweep_pass", killed)
            for _ in range(len(kills) + 1):
                with suppress(KeyboardInterrupt):  # before the first pass with networks
                    profile_space(machine, path, tiny_space, time_limit_s=1e9)
        return _visits(path)

    whole = filled(tmp_path / "whole.sqlite", ())
    pieces = filled(tmp_path / "pieces.sqlite", (1, 5, 12))
    assert len({number for number, *_ in whole}) == 16
    assert pieces[: len(whole)] == whole


def test_every_block_is_visited_often_enough_and_networks_in_every_pass(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, path = _device(**SHORT), tmp_path / "t.sqlite"
    machine = SimulatedMachine(device, Noise(), seed=2)
    keep_time(machine, monkeypatch)
    made = profile_space(machine, path, tiny_space, time_limit_s=1e9)
    visits = _visits(path)
    counts = Counter(target for _, target, _ in visits)
    with TableStore.open(path) as store:
        blocks, networks = store.blocks(), store.networks("profile")
        noise = pass_noise(store, device.sweep.quantile)
    assert min(counts[id_] for id_ in blocks) >= device.sweep.least_visits
    for number in range(2, made.passes):
        assert networks.keys() <= {target for at, target, _ in visits if at == number}
    last = [target for at, target, _ in visits if at == made.passes - 1]
    assert len(last) < len(blocks)
    assert [each.number for each in noise] == list(range(1, made.passes + 1))
    few = [e for e in LatencyTable.open(path).estimates.values() if e.visits < 10]
    assert any(not estimate.noisy for estimate in few)


def test_a_converged_table_passes_its_check_and_is_measured_further_when_asked(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that hardly matter have wide intervals, but enough visits."""
    device, path = _device(**{**SHORT, "network_tolerance": 0.1}), tmp_path / "t.sqlite"
    machine = SimulatedMachine(device, Noise(session=0.1), seed=4)
    keep_time(machine, monkeypatch)
    made = profile_space(machine, path, tiny_space, time_limit_s=1e9)
    assert made.stopped == "converged"
    table = LatencyTable.open(path)
    widths = [price_half_width(table.price_model, e) for e in table.estimates.values()]
    assert max(widths) > device.sweep.block_tolerance
    assert not any(estimate.noisy for estimate in table.estimates.values())
    assert table.check(None).passed
    assert profile_space(machine, path, tiny_space, time_limit_s=1e-3).passes == made.passes + 1


def test_a_pass_that_ended_early_does_not_break_the_rotation(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, path = _device(**SHORT), tmp_path / "t.sqlite"
    machine = SimulatedMachine(device, Noise(), seed=2)
    keep_time(machine, monkeypatch)
    profile_space(machine, path, tiny_space, time_limit_s=1e9)
    with TableStore.open(path) as store:
        sweep = store.profiling()
        assert sweep is not None
        typical = list(store.networks("profile").values())
        plan = PassPlan(store, sweep, protocol=device.sweep, typical=typical)
        samples = Samples.of(store.visits(sweep))
        before, _ = plan.next_pass(samples, passes=1)
        store.add_pass(sweep, PassRecord(store.passes(sweep)))  # its time was up at once
        after, _ = plan.next_pass(samples, passes=1)
    assert len(before) < len(plan.targets)
    assert after == before


def test_leverage_is_what_an_error_does_to_predictions(tiny_space: SearchSpace) -> None:
    alignment = Alignment((WidthClass(4, 4), WidthClass(1, 1)))
    blocks = {
        id_: spec
        for id_, spec in enumerate(tiny_space.blocks(every_width))
        if (block_width(spec) or 0) % 3 == 0
    }
    ms = {id_: 1.0 + (id_ % 7) for id_ in blocks}
    rng = np.random.default_rng(4)
    networks = [tiny_space.lower(tiny_space.random(rng)) for _ in range(10)]

    def predicted(changed: int | None) -> np.ndarray:
        known: dict[BlockSpec, Any] = {}
        for id_, spec in blocks.items():
            latency_ms = ms[id_] * (1.001 if id_ == changed else 1.0)
            interval = Interval(latency_ms, latency_ms, latency_ms)
            known[spec] = as_estimate(interval, None, visits=9)
        curves = Curves(alignment, known)

        def sum_ms(network: Network) -> float:
            found = [curves.estimate(spec) for spec in network]
            return sum(estimate.hot_ms for estimate in found if estimate is not None)

        return np.array([sum_ms(network) for network in networks])

    found = Leverage(networks, blocks, alignment=alignment).mean_squares(ms)
    before = predicted(None)
    for id_ in list(blocks)[::5]:
        relative = (predicted(id_) / before - 1) / 0.001
        assert found.get(id_, 0.0) == pytest.approx(
            float(np.mean(relative**2)), rel=1e-6, abs=1e-12
        )
