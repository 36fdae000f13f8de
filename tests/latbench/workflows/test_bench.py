"""Comparison of networks: verdicts follow from true latencies, whatever the machine does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latbench.blocks import Classifier, ConvBlock, Network
from latbench.device import DeviceProfile
from latbench.errors import InvalidValueError, RuntimeFailure
from latbench.measure.load import LoadMeter, MachineLoad
from latbench.measure.visit import Visit
from latbench.models import OnnxModel, read_model
from latbench.profilers import CacheFlusher, Profiler, Session, make_profiler, open_session
from latbench.profilers.pytorch import PytorchSession
from latbench.progress import silent
from latbench.report.junit import write_junit
from latbench.workflows import bench as workflow
from latbench.workflows import footprint
from latbench.workflows.bench import Bench, bench
from latbench.workflows.footprint import Footprint, measure_footprint
from tests.latbench.models.small import conv_model, save

NETWORK: Network = (ConvBlock(3, 8, 3, 1, "relu", 8), Classifier(8, 10, 8))


class _Machine(Profiler):
    """A machine whose models have true latencies, and whose state changes from pass to pass.

    Args:
        true_ms: True latency by name of the model.
        spread: Mean of the time that other work adds to a call, as a fraction.
        swing: Standard deviation of a factor that a whole pass has in common.
        seed: Seed of the machine's noise.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        true_ms: dict[str, float],
        *,
        spread: float = 0.004,
        swing: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__(profile)
        self.true_ms, self.spread, self.swing = true_ms, spread, swing
        self.rng = np.random.default_rng(seed)
        self.factor = 1.0

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        return None

    def warm_up(self) -> None:
        self.factor = float(np.exp(self.rng.normal(0, self.swing)))

    def cache_flusher(self) -> CacheFlusher:
        return CacheFlusher(4)

    def open(self, network: Network) -> Session:
        raise AssertionError("only models are measured here")

    def open_model(self, model: OnnxModel) -> Session:
        return _Call(self, self.true_ms[model.name])

    def versions(self) -> dict[str, str]:
        return {}


class _Call(Session):
    def __init__(self, machine: _Machine, true_ms: float) -> None:
        self.machine, self.true_ms = machine, true_ms

    def call(self) -> None:
        return

    def timed_call(self) -> int:
        added = self.machine.rng.exponential(self.machine.spread)
        return round(self.true_ms * 1e6 * self.machine.factor * (1 + added))

    def output(self) -> NDArray[np.float32]:
        raise AssertionError("nothing is computed here")

    def close(self) -> None:
        return


Measure = Callable[..., Bench]


@pytest.fixture
def measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_profile: DeviceProfile
) -> Measure:
    """Compare models of given true latencies on a machine of some noise."""
    monkeypatch.setattr(workflow, "measure_footprint", lambda *_, **__: Footprint(5.0, 40.0))

    def measure(
        *true_ms: float, tolerance: float = 0.02, others: float = 0.0, **noise: Any
    ) -> Bench:
        load = MachineLoad(others, idle=max(0.0, 1.0 - others) * (os.cpu_count() or 1))
        monkeypatch.setattr(LoadMeter, "read", lambda _: load)
        names = [f"{number}.onnx" for number, _ in enumerate(true_ms)]
        machine = _Machine(quick_profile, dict(zip(names, true_ms, strict=True)), **noise)
        monkeypatch.setattr(workflow, "make_profiler", lambda profile: machine)
        models = [read_model(save(conv_model(), tmp_path / name)) for name in names]
        return bench(models, quick_profile, tolerance=tolerance, time_limit="1ms")

    return measure


@pytest.mark.parametrize("seed", range(5))
def test_a_network_against_itself_is_the_same(measured: Measure, seed: int) -> None:
    assert measured(10.0, 10.0, seed=seed).rows[1].verdict == "SAME"


@pytest.mark.parametrize("seed", range(5))
def test_three_percent_are_found_although_passes_differ_by_more(
    measured: Measure, seed: int
) -> None:
    found = measured(10.0, 10.3, 9.7, seed=seed)
    assert [row.verdict for row in found.rows] == ["BASELINE", "SLOWER", "FASTER"]
    assert not found.passed
    for row, ratio in zip(found.rows, (1, 1.03, 0.97), strict=True):
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert row.ratio == pytest.approx(ratio, abs=0.006)


@pytest.mark.parametrize("seed", range(5))
def test_a_loaded_machine_is_unsure_rather_than_wrong(measured: Measure, seed: int) -> None:
    found = measured(10.0, 10.0, 10.3, spread=0.5, seed=seed, others=1.5)
    assert found.noise.loaded and found.noise.load == 1.5
    assert found.noise.verdict == "noisy"
    assert found.rows[1].verdict == "UNSURE"
    assert found.rows[2].verdict in ("UNSURE", "SLOWER")


def test_a_smaller_change_than_the_tolerance_is_the_same(measured: Measure) -> None:
    assert measured(10.0, 10.3, tolerance=0.05).rows[1].verdict == "SAME"


def test_quantiles_are_those_of_all_calls(measured: Measure) -> None:
    row = measured(10.0, swing=0.0, spread=0.5).rows[0]
    assert row.low_ms <= row.latency_ms <= row.high_ms
    assert row.latency_ms < row.p50_ms < row.p90_ms < row.p99_ms
    for found_ms, part in ((row.p50_ms, 0.5), (row.p90_ms, 0.9), (row.p99_ms, 0.99)):
        assert found_ms == pytest.approx(10 * (1 - 0.5 * np.log(1 - part)), rel=0.15)


def test_a_quiet_machine_is_told_from_a_noisy_one(measured: Measure) -> None:
    assert measured(10.0, swing=0.0).noise.verdict == "quiet"
    assert measured(10.0, spread=4.0).noise.verdict == "noisy"


def test_networks_of_blocks_and_files_are_measured_together(
    tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    path = save(conv_model(shape=("n", 3, 8, 8)), tmp_path / "m.onnx")
    found = bench([path, NETWORK], quick_profile, batch_size=2, time_limit="1ms")
    assert [row.model for row in found.rows] == ["m.onnx", "network 2"]
    assert all(row.latency_ms > 0 and row.load_ms > 0 for row in found.rows)
    assert all(row.peak_mb is not None and row.peak_mb >= 0 for row in found.rows)


def test_architectures_and_files_compute_equally_many_images(
    tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    path = save(conv_model(shape=(1, 3, 8, 8)), tmp_path / "m.onnx")
    batched = msgspec.structs.replace(quick_profile, batch_size=4)
    with pytest.raises(InvalidValueError, match=r"m.onnx computes 1 .* 4 .*batch-size 1"):
        bench([NETWORK, path], batched, time_limit="1ms")
    assert len(bench([NETWORK, path], batched, batch_size=1, time_limit="1ms").rows) == 2
    assert len(bench([path, path], batched, time_limit="1ms").rows) == 2


def test_memory_grows_by_at_least_the_weights(tmp_path: Path, quick_profile: DeviceProfile) -> None:
    weight = np.zeros((1 << 18, 3, 3, 3), np.float32)  # 28 MB
    model = read_model(save(conv_model(shape=(1, 3, 4, 4), weight=weight), tmp_path / "m.onnx"))
    found = measure_footprint(make_profiler(quick_profile), model)
    assert found.peak_mb is not None
    assert 28 <= found.peak_mb <= 280


def test_the_time_to_open_a_model_is_in_ms(
    tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(profiler: Profiler, network: OnnxModel) -> Session:
        sleep(0.05)
        return open_session(profiler, network)

    monkeypatch.setattr(footprint, "open_session", slowly)
    model = read_model(save(conv_model(shape=(1, 3, 4, 4)), tmp_path / "m.onnx"))
    found = footprint._measure_here(quick_profile, model, lambda fraction, words: None)
    assert 50 <= found.load_ms < 5000


def test_a_model_is_opened_as_by_a_new_process_each_time(
    tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profiler may keep what it compiled, as OpenVINO's does."""
    made: list[Profiler] = []

    def make(profile: DeviceProfile) -> Profiler:
        made.append(make_profiler(profile))
        return made[-1]

    opened_by: list[Profiler] = []

    def open_by(profiler: Profiler, network: OnnxModel) -> Session:
        opened_by.append(profiler)
        return open_session(profiler, network)

    monkeypatch.setattr(footprint, "make_profiler", make)
    monkeypatch.setattr(footprint, "open_session", open_by)
    model = read_model(save(conv_model(), tmp_path / "m.onnx"))
    footprint._measure_here(quick_profile, model, silent)
    assert len({*map(id, opened_by)}) == len(opened_by) == 3


def test_a_refusal_comes_out_of_the_process_that_opens(
    tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    model = read_model(
        save(conv_model(shape=(1, "c", 8, 8)), tmp_path / "m.onnx"), shapes={"x": (1, 5, 8, 8)}
    )
    with pytest.raises(RuntimeFailure, match="refused the network"):
        measure_footprint(make_profiler(quick_profile), model)


def test_a_long_error_of_pytorch_is_one_line() -> None:
    def fail(image: Any) -> Any:
        raise RuntimeError("line\n" * 1000)

    with pytest.raises(RuntimeFailure, match=r"^PyTorch refused the network: line line") as caught:
        PytorchSession(fail, torch.zeros(1)).call()  # type: ignore[arg-type]
    assert "\n" not in caught.value.message and len(caught.value.message) < 400


def test_wrong_input_is_refused(tmp_path: Path, quick_profile: DeviceProfile) -> None:
    with pytest.raises(InvalidValueError, match="at least one"):
        bench([], quick_profile)
    path = save(conv_model(), tmp_path / "m.onnx")
    for names in ([], ["a", "b"]):
        with pytest.raises(InvalidValueError, match=f"names are {len(names)}, models are 1"):
            bench(path, quick_profile, names=names)
    with pytest.raises(InvalidValueError, match="no model has an input 'z': the inputs are x"):
        bench(path, quick_profile, shapes={"z": (1,)})


def test_verdicts_are_test_cases_of_ci_systems(measured: Measure, tmp_path: Path) -> None:
    write_junit(tmp_path / "j.xml", [measured(10.0, 10.0, 10.5)])
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "0")
    assert [case.find("failure") is not None for case in suite] == [False, False, True]


@pytest.mark.parametrize("seed", range(8))
def test_a_network_within_the_tolerance_is_never_slower(measured: Measure, seed: int) -> None:
    """Although it is surely slower than the first."""
    found = measured(10.0, 10.19, tolerance=0.02, spread=0.02, seed=seed)
    assert found.rows[1].verdict in ("SAME", "UNSURE")


def test_names_of_any_signs_are_xml(measured: Measure, tmp_path: Path) -> None:
    found = measured(10.0, 10.5)
    odd = [replace(row, model="a\x01\ufffe<b>.onnx") for row in found.rows]
    write_junit(tmp_path / "j.xml", [replace(found, rows=odd)])
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    assert suite[1].get("name") == r"a\x01\ufffe<b>.onnx"


def test_the_result_is_the_documented_object(measured: Measure) -> None:
    plain = json.loads(json.dumps(measured(10.0, 10.5).as_dict()))
    assert set(plain) == {"device", "rows", "noise"}
    columns = "model latency_ms low_ms high_ms p50_ms p90_ms p99_ms load_ms peak_mb"
    assert set(plain["rows"][0]) == {
        *columns.split(),
        *("ratio", "ratio_low", "ratio_high", "verdict"),
    }
    assert (plain["rows"][0]["verdict"], plain["rows"][0]["ratio"]) == ("BASELINE", 1)


def test_a_load_does_not_keep_a_decided_bench_going(measured: Measure) -> None:
    """The first network is compared with itself, which is no verdict."""
    loaded = MachineLoad(1.5, idle=0.0)
    meter = SimpleNamespace(read=lambda: loaded)
    visits = {0: [Visit((1_000_000,), ())] * 40, 1: [Visit((2_000_000,), ())] * 40}
    assert workflow._is_decided(visits, meter=meter, tolerance=0.02)
    assert workflow._is_decided({0: visits[0]}, meter=meter, tolerance=0.02)
    assert not workflow._is_decided({0: visits[0], 1: visits[0]}, meter=meter, tolerance=0.02)
