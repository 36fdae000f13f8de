"""Measuring on a GPU: what only a GPU can answer. Skipped, with the reason, where there is none."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

import cli
from latbench.blocks import Classifier, ConvBlock, InvertedResidual, Network
from latbench.device import DeviceProfile, Precision
from latbench.device_files import load_device
from latbench.errors import RuntimeFailure
from latbench.profilers import PROFILERS, Profiler, Session, make_profiler
from latbench.profilers.driver import CudaError, cuda_driver
from latbench.profilers.timer import GpuTimer
from latbench.tables import LatencyTable

pytestmark = pytest.mark.gpu

BLOCK = InvertedResidual(40, 40, 160, 5, 1, "swish", 14, se_channels=8)
NETWORK: Network = (
    ConvBlock(3, 40, 3, 2, "relu", 28),
    *[BLOCK] * 8,
    Classifier(40, 10, 14),
)
HEAVY: Network = (InvertedResidual(512, 512, 3072, 3, 1, "relu", 4),)  # 12 MB of weights in fp32
CALLS = 30
DEVICE = """
name = "quick"
runtime = "pytorch"
device = "cuda"
batch_size = 8
clock = "{clock}"
[sweep]
hot_calls = 2
cold_calls = 1
block_dwell_ms = 0.2
network_dwell_ms = 1.0
min_passes = 2
max_passes = 2
networks = 6
network_visits = 1
verify_visits = 2
"""


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    reason = PROFILERS["pytorch"].unavailable(load_device("cuda-pytorch-b1"))
    if reason is not None:
        pytest.skip(reason)


def pytorch(precision: Precision = "fp32", batch_size: int = 1, **options: str) -> Profiler:
    return make_profiler(
        DeviceProfile("g", "pytorch", "cuda", batch_size, precision, options=options)
    )


def timer(profiler: Profiler) -> GpuTimer:
    assert profiler.gpu is not None
    return profiler.gpu.timer


@contextmanager
def opened(profiler: Profiler, network: Network) -> Iterator[Session]:
    session = profiler.open(network)
    try:
        yield session
    finally:
        session.close()


def output(profiler: Profiler, network: Network) -> Any:
    with opened(profiler, network) as session:
        session.call()
        return session.output().copy()


@pytest.mark.parametrize("cuda_graph", ["true", "false"])
def test_the_gpus_work_is_no_more_than_what_a_program_waits_for(cuda_graph: str) -> None:
    profiler = pytorch(cuda_graph=cuda_graph)
    profiler.warm_up()
    with opened(profiler, NETWORK) as session:
        enqueue = vars(session)["_enqueue"]
        gpu_ns = [timer(profiler).gpu_ns(enqueue) for _ in range(CALLS)]
        host_ns = [timer(profiler).host_ns(enqueue) for _ in range(CALLS)]
    assert profiler.remarks() == [], "the gate held"
    assert 0 < median(gpu_ns) <= median(host_ns)


def test_gaps_between_launches_do_not_count() -> None:
    """Eager calls launch more slowly than a GPU computes; its clock sees the computing alone."""
    taken_ns = {}
    for cuda_graph in ("true", "false"):
        profiler = pytorch(cuda_graph=cuda_graph)
        profiler.warm_up()
        with opened(profiler, NETWORK) as session:
            enqueue = vars(session)["_enqueue"]
            taken_ns[cuda_graph] = median(timer(profiler).gpu_ns(enqueue) for _ in range(CALLS))
            host_ns = median(timer(profiler).host_ns(enqueue) for _ in range(CALLS))
    assert taken_ns["false"] < host_ns


def test_a_call_that_waits_for_the_gpu_does_not_hang() -> None:
    profiler = pytorch()
    stream = timer(profiler).stream
    assert timer(profiler).gpu_ns(lambda: cuda_driver().synchronize(stream)) >= 0
    assert "include gaps between launches" in profiler.remarks()[0]


def test_a_call_that_fails_leaves_the_stream_usable() -> None:
    profiler = pytorch()

    def fail() -> None:
        raise RuntimeFailure("no")

    with pytest.raises(RuntimeFailure, match="no"):
        timer(profiler).gpu_ns(fail)
    with opened(profiler, NETWORK[:1]) as session:
        assert session.timed_call() > 0
    assert profiler.remarks() == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_computes_what_eager_calls_compute(precision: Precision) -> None:
    replayed, eager = (
        output(pytorch(precision, 2, cuda_graph=cuda_graph), NETWORK)
        for cuda_graph in ("true", "false")
    )
    np.testing.assert_allclose(replayed, eager, rtol=0, atol=1e-3 * np.abs(eager).max())


def test_half_precision_agrees_within_its_tolerance_and_fp32_is_not_tf32() -> None:
    processor = DeviceProfile("oracle", "onnxruntime", batch_size=2)
    expected = output(make_profiler(processor), NETWORK)
    scale = np.abs(expected).max()
    for precision, tolerance in (("fp32", 1e-4), ("fp16", 2e-2)):
        error = np.abs(output(pytorch(precision, 2), NETWORK) - expected).max()  # type: ignore[arg-type]
        assert error < tolerance * scale, precision


def test_graphs_of_many_sessions_share_memory() -> None:
    import torch

    profiler = pytorch(batch_size=8)
    reserved = []
    for _ in range(6):
        for network in (NETWORK, NETWORK[1:2], HEAVY):
            with opened(profiler, network) as session:
                session.call()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] == reserved[1]


def test_a_block_is_no_faster_after_its_weights_left_the_cache() -> None:
    profiler = pytorch()
    profiler.warm_up()
    flush = profiler.cache_flusher()
    hot_ns, cold_ns = [], []
    with opened(profiler, HEAVY) as session:
        for _ in range(CALLS):
            hot_ns.append(session.timed_call())
            flush()
            cold_ns.append(session.timed_call())
            session.call()
    assert median(cold_ns) >= median(hot_ns)


def test_the_clock_is_up_and_the_environment_has_it() -> None:
    profiler = pytorch()
    environment = profiler.environment()
    gpu, watch = environment.gpu, profiler.watch()
    assert gpu is not None
    assert watch is not None
    assert gpu.clock_mhz is not None
    assert gpu.max_clock_mhz is not None
    assert gpu.clock_mhz > 0.5 * gpu.max_clock_mhz
    assert gpu.memory_mib is not None
    profiler.warm_up()
    watch()
    assert profiler.distrust() is None


def test_a_gpu_without_room_is_reported_in_one_line() -> None:
    """As where another process fills its memory."""
    import torch

    driver, profiler = cuda_driver(), pytorch(batch_size=2048)
    output(profiler, HEAVY)
    gc.collect()
    torch.cuda.empty_cache()
    free_bytes, _ = driver.memory_bytes()
    with pytest.raises(CudaError, match=r"no room.*MiB are free") as caught:
        driver.allocate(2 * free_bytes)
    assert "\n" not in caught.value.message
    filled = driver.allocate(free_bytes - (256 << 20))
    try:
        with pytest.raises(RuntimeFailure, match="no room") as refused:
            pytorch(batch_size=4096).open(HEAVY)
        assert "\n" not in refused.value.message
    finally:
        driver.free(filled)
    output(profiler, HEAVY)  # the GPU can be used as before


@pytest.mark.parametrize("clock", ["gpu", "host"])
def test_a_small_space_is_profiled_and_verified(
    clock: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device, path = tmp_path / "device.toml", tmp_path / "t.sqlite"
    device.write_text(DEVICE.format(clock=clock))

    def run(*arguments: object) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["latbench", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit):
            cli.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert "error" not in result, result
        return result

    profiled = run("profile", device, "nasbench-macro", "-o", path, "--time-limit", "5s")
    assert profiled["blocks"] == profiled["measured"] > 0
    verified = run("verify", "--random", 2, "--seed", 7, "--table", path)
    assert len(verified["rows"]) == 2
    assert all(row["measured_ms"] > 0 for row in verified["rows"])
    table = LatencyTable.open(path)
    assert table.environment.gpu is not None
    assert table.environment.gpu.clock_mhz is not None
    assert table.environment.remarks == []
