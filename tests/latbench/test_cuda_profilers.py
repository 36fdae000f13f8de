"""The order of calls on CUDA, on stand-ins that record it (``recording_cuda``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latbench.device import DeviceProfile, Precision
from latbench.environment import Gpu
from latbench.errors import RuntimeFailure
from latbench.profilers import PROFILERS, make_profiler
from latbench.profilers.cuda import CudaFlusher
from latbench.profilers.gpu import clock_too_low, no_gpu, read_gpu
from latbench.profilers.onnxruntime import OnnxRuntimeProfiler
from latbench.profilers.pytorch_cuda import PytorchCudaSession, PytorchFlusher
from latbench.profilers.tensorrt import Layout, TensorrtProfiler
from tests.latbench.recording_cuda import (
    CALL_MS,
    L2_BYTES,
    Log,
    RecordingOnnxRuntime,
    RecordingTensorrt,
    install_nvml,
    install_pycuda,
    install_torch_cuda,
)
from tests.latbench.test_profilers import NETWORK

TIMED = ["record begin", "run", "record end", "wait for end", "read time"]


def _profile(runtime: str, precision: Precision = "fp32", **options: str) -> DeviceProfile:
    return DeviceProfile("g", runtime, "cuda", 2, precision, options=options)


@pytest.mark.parametrize("runtime", ["onnxruntime", "pytorch", "tensorrt"])
def test_without_a_gpu_the_reason_says_so(runtime: str) -> None:
    if no_gpu() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeFailure, match="nvidia-smi"):
        make_profiler(_profile(runtime))


@pytest.mark.parametrize(
    ("runtime", "module", "extra"),
    [
        ("onnxruntime", "pycuda", "cuda"),
        ("onnxruntime", "pynvml", "gpu"),
        ("pytorch", "pynvml", "gpu"),
        ("tensorrt", "pycuda", "cuda"),
        ("tensorrt", "tensorrt", "tensorrt"),
    ],
)
def test_with_a_gpu_a_missing_package_names_its_extra(
    runtime: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_pycuda(monkeypatch, Log())
    install_nvml(monkeypatch)
    monkeypatch.setattr("latbench.profilers.cuda.no_gpu", lambda: None)
    monkeypatch.setattr("latbench.profilers.pytorch.no_gpu", lambda: None)
    monkeypatch.setitem(sys.modules, module, None)
    reason = PROFILERS[runtime].unavailable(_profile(runtime))
    assert reason is not None
    assert f"pip install 'latbench[{extra}]'" in reason


def test_onnxruntime_without_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    install_pycuda(monkeypatch, Log())
    install_nvml(monkeypatch)
    monkeypatch.setattr("latbench.profilers.cuda.no_gpu", lambda: None)
    reason = OnnxRuntimeProfiler.unavailable(_profile("onnxruntime"))
    assert reason is not None
    assert "pip install onnxruntime-gpu" in reason


@pytest.mark.parametrize(
    ("clock", "base", "highest", "trusted"),
    [
        (900, 1100, 1400, True),
        (800, 1100, 1400, False),
        (800, None, 1400, True),
        (600, None, 1400, False),
        (100, None, None, True),
        (None, 1100, 1400, True),
    ],
)
def test_a_clock_far_below_the_base_clock_is_told(
    clock: int | None,
    base: int | None,
    highest: int | None,
    trusted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_nvml(monkeypatch, clock=clock, base=base, highest=highest)
    reason = clock_too_low()
    assert (reason is None) == trusted
    if reason is not None:
        assert f"runs at {clock} MHz" in reason
        assert "(power cap, temperature)" in reason
        assert "--lock-gpu-clocks" in reason


def test_the_environment_names_gpu_driver_clocks_and_throttling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_nvml(monkeypatch, clock=900, base=1100, highest=None)
    assert read_gpu() == Gpu(
        "Recording GPU", "600.1", 900, 1100, None, ["power cap", "temperature"]
    )
    assert OnnxRuntimeProfiler(_profile("onnxruntime")).environment().gpu == read_gpu()


def test_a_flush_writes_the_l2_cache_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    install_pycuda(monkeypatch, log)
    CudaFlusher()()
    assert log.taken() == [f"write {L2_BYTES} of {L2_BYTES} bytes", "wait for device"]


@pytest.mark.parametrize(("precision", "element"), [("fp32", "float32"), ("fp16", "float16")])
def test_onnxruntime_binds_once_and_is_timed_by_events(
    precision: Precision, element: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    install_pycuda(monkeypatch, log)
    runtime = RecordingOnnxRuntime(log)
    monkeypatch.setattr("latbench.profilers.onnxruntime.ort", runtime)
    options = {"cudnn_conv_algo_search": "HEURISTIC", "session.use_env_allocators": "1"}
    session = OnnxRuntimeProfiler(_profile("onnxruntime", precision, **options)).open(NETWORK)
    opened = log.taken()
    assert opened[-6:] == [
        f"{element} on cuda",
        "bind input",
        f"{element} on cuda",
        "bind output",
        "wait for inputs",
        "run entry disable_synchronize_execution_providers",
    ]
    assert "entry session.use_env_allocators" in opened
    assert "entry cudnn_conv_algo_search" not in opened
    (provider,) = runtime.providers
    assert provider == (
        "CUDAExecutionProvider",
        {"use_tf32": "0", "user_compute_stream": "77", "cudnn_conv_algo_search": "HEURISTIC"},
    )
    session.call()
    assert log.taken() == ["run", "wait for outputs"]
    assert session.timed_call() == CALL_MS * 1e6
    assert log.taken() == TIMED


def test_onnxruntime_does_not_fall_back_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    install_pycuda(monkeypatch, log)
    runtime = RecordingOnnxRuntime(log, loads=False)
    monkeypatch.setattr("latbench.profilers.onnxruntime.ort", runtime)
    with pytest.raises(RuntimeFailure, match="cuDNN"):
        OnnxRuntimeProfiler(_profile("onnxruntime")).open(NETWORK)


def _recording_module(log: Log) -> tuple[Any, Any]:
    """A module that notes its calls, and its image."""
    import torch

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            log("compute")
            return x

    return Module(), torch.zeros(2, 3, 4, 4)


def test_pytorch_warms_up_then_captures_then_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    module, image = _recording_module(log)
    install_torch_cuda(monkeypatch, log)
    session = PytorchCudaSession(module, image, cuda_graph=True)
    warm_up = ["compute", "wait for stream"] * 3
    captured = ["capture", "compute", "captured"]
    assert log.taken() == ["stream waits for the default one", *warm_up, *captured]
    session.call()
    assert log.taken() == ["replay", "wait for stream"]
    assert session.timed_call() == CALL_MS * 1e6
    assert log.taken() == ["record begin", "replay", "record end", "wait for end", "read time"]
    assert session.output().shape == (2, 3, 4, 4)
    session.close()


def test_pytorch_without_a_graph_computes_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    module, image = _recording_module(log)
    install_torch_cuda(monkeypatch, log)
    session = PytorchCudaSession(module, image, cuda_graph=False)
    assert "capture" not in log.taken()
    session.timed_call()
    assert log.taken() == ["record begin", "compute", "record end", "wait for end", "read time"]


def test_the_flush_of_pytorch_writes_the_l2_cache_and_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log()
    install_torch_cuda(monkeypatch, log)
    PytorchFlusher()()
    assert log.taken() == [f"buffer of {L2_BYTES} bytes", "write", "wait for device"]


@pytest.fixture
def tensorrt_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A recording TensorRT, with a cache folder of its own."""
    log = Log()
    install_pycuda(monkeypatch, log)
    monkeypatch.setitem(sys.modules, "tensorrt", RecordingTensorrt(log))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return log


def _open_tensorrt(**options: str) -> Any:
    """A session of a profiler that remembers nothing of others."""
    return TensorrtProfiler(_profile("tensorrt", "fp16", **options)).open(NETWORK)


def test_tensorrt_binds_once_is_timed_by_events_and_frees(tensorrt_log: Log) -> None:
    session = _open_tensorrt()
    assert tensorrt_log.taken() == [
        "without tf32",
        "given 0 bytes of timings",
        "build at level 3",
        "load",
        "bind input",
        "copy in float16[2, 16, 16, 8]",  # three channels, filled up to eight
        "bind output",
    ]
    session.call()
    assert tensorrt_log.taken() == ["run", "wait for stream"]
    assert session.timed_call() == CALL_MS * 1e6
    assert tensorrt_log.taken() == TIMED
    assert session.output().shape == (2, 10)
    tensorrt_log.taken()
    session.close()
    assert tensorrt_log.taken() == ["free", "free"]


def test_tensorrt_builds_an_engine_once(tensorrt_log: Log) -> None:
    profiler = TensorrtProfiler(_profile("tensorrt", "fp16"))
    for _ in range(2):
        profiler.open(NETWORK).close()
    _open_tensorrt()
    assert [call for call in tensorrt_log.calls if call.startswith("build")] == ["build at level 3"]
    assert tensorrt_log.calls.count("load") == 3


def test_tensorrt_does_not_read_what_others_built(
    tensorrt_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open_tensorrt()
    _open_tensorrt(optimization_level="1")
    monkeypatch.setitem(sys.modules, "tensorrt", RecordingTensorrt(tensorrt_log, version="11.1"))
    _open_tensorrt()
    assert sum(call.startswith("build") for call in tensorrt_log.calls) == 3


@pytest.mark.parametrize("damage", [b"", b"short", bytes(64)])
def test_tensorrt_builds_again_what_was_damaged(
    damage: bytes, tensorrt_log: Log, tmp_path: Path
) -> None:
    _open_tensorrt()
    files = list((tmp_path / "latbench" / "tensorrt").iterdir())
    assert len(files) == 2  # the engine and the timings
    for file in files:
        file.write_bytes(damage)
    tensorrt_log.taken()
    _open_tensorrt()
    assert "build at level 3" in tensorrt_log.taken()
    _open_tensorrt()
    assert "build at level 3" not in tensorrt_log.taken()


def test_tensorrt_goes_on_with_the_timings_of_earlier_builds(tensorrt_log: Log) -> None:
    profiler = TensorrtProfiler(_profile("tensorrt", "fp16"))
    profiler.open(NETWORK)
    profiler.open(NETWORK[:1])
    given = [call for call in tensorrt_log.calls if call.startswith("given")]
    assert given == ["given 0 bytes of timings", "given 7 bytes of timings"]


def test_what_tensorrt_refuses_is_told_in_one_line(
    tensorrt_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latbench.profilers.tensorrt._rendered", lambda *_: b"no model")
    with pytest.raises(RuntimeFailure, match="TensorRT refused the network: this is no model"):
        _open_tensorrt()


@pytest.mark.parametrize("lanes", [0, 1, 8])
@pytest.mark.parametrize("channels", [1, 3, 8, 17])
def test_what_is_packed_is_unpacked(lanes: int, channels: int) -> None:
    values: NDArray[np.float32]
    values = np.random.default_rng(0).standard_normal((2, channels, 5, 4)).astype(np.float32)
    layout = Layout(values.shape, lanes)
    packed = layout.pack(values)
    assert packed.shape == layout.packed_shape
    assert packed.flags.c_contiguous
    np.testing.assert_array_equal(layout.unpack(packed), values)
