"""The order of calls on CUDA, on stand-ins that record it (``recording_cuda``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from latbench.device import Clock, DeviceProfile, Precision, SweepProtocol
from latbench.environment import Gpu
from latbench.errors import InvalidValueError, RuntimeFailure
from latbench.measure.sweep import sweep_pass
from latbench.measure.visit import visit
from latbench.measure.visiting import block_target
from latbench.profilers import PROFILERS, make_profiler
from latbench.profilers.driver import CudaDriver, CudaError
from latbench.profilers.gate import KERNEL
from latbench.profilers.gpu import ClockWatch, no_gpu, read_gpu
from latbench.profilers.onnxruntime import (
    OnnxRuntimeProfiler,
    loaded_libraries,
    require_loaded_provider,
)
from latbench.profilers.pytorch_cuda import PytorchCudaSession, PytorchStream
from latbench.profilers.tensorrt import TensorrtProfiler
from latbench.profilers.tensorrt_engines import Layout
from latbench.profilers.timer import GpuTimer
from tests.latbench.profilers.recording_cuda import (
    CALL_MS,
    STREAM,
    Log,
    RecordingLibrary,
    RecordingOnnxRuntime,
    RecordingTensorrt,
    install_driver,
    install_nvml,
    install_pycuda,
    install_torch_cuda,
)
from tests.latbench.profilers.test_profilers import NETWORK

CALL_NS = CALL_MS * 1e6
BUILD = "build at level 3, 8 timings"


def gated(*work: str) -> list[str]:
    """What a gated call of some work looks like."""
    return ["hold", *(f"{word}*" for word in ("record begin", *work, "record end")), "wait"]


def _profile(
    runtime: str, precision: Precision = "fp32", clock: Clock | None = None, **options: str
) -> DeviceProfile:
    return DeviceProfile("g", runtime, "cuda", 2, precision, options=options, clock=clock)


def _timer(clock: Clock = "gpu") -> tuple[GpuTimer, RecordingLibrary, Log]:
    log = Log()
    library = RecordingLibrary(log)
    timer = GpuTimer(CudaDriver(library), STREAM, clock=clock)
    log.taken()
    return timer, library, log


def test_the_stream_is_held_while_a_call_is_enqueued_and_released_before_it_is_waited_for() -> None:
    timer, _, log = _timer()
    assert timer.timed_ns(lambda: log("run")) == CALL_NS
    assert log.taken() == gated("run")
    assert timer.remarks == []


def test_the_cache_is_evicted_behind_the_gate_before_the_interval_begins_and_once() -> None:
    timer, _, log = _timer()
    timer.flush_next()
    timer.timed_ns(lambda: log("run"))
    assert log.taken() == ["hold", "evict*", "record begin*", "run*", "record end*", "wait"]
    timer.timed_ns(lambda: log("run"))
    assert log.taken() == gated("run")


def test_by_the_processors_clock_a_call_is_timed_until_its_result_is_there() -> None:
    timer, _, log = _timer("host")
    assert timer.timed_ns(lambda: log("run")) > 0
    assert log.taken() == ["run", "wait"]
    timer.flush_next()
    timer.timed_ns(lambda: log("run"))
    assert log.taken() == ["evict", "wait", "run", "wait"]


def test_a_call_that_fails_leaves_the_gate_open() -> None:
    timer, _, log = _timer()

    def fail() -> None:
        raise RuntimeFailure("no")

    with pytest.raises(RuntimeFailure, match="no"):
        timer.timed_ns(fail)
    assert not log.is_held()
    timer.timed_ns(lambda: log("run"))
    assert log.taken()[-5:] == gated("run")


def test_calls_that_wait_for_the_gpu_are_timed_without_the_gate_and_the_table_says_so() -> None:
    timer, library, log = _timer()

    def waits() -> None:
        library.cuStreamSynchronize(STREAM)

    assert timer.timed_ns(waits) == CALL_NS
    assert log.taken().count("hold") == 3
    assert timer.timed_ns(waits) == CALL_NS
    assert log.taken() == ["record begin", "wait", "record end", "wait"]
    (remark,) = timer.remarks
    assert "include gaps between launches" in remark


def test_a_call_held_for_too_long_once_is_timed_again() -> None:
    """As where the process is stopped for a while."""
    timer, library, log = _timer()
    stopped = iter([True])

    def stops_once() -> None:
        if next(stopped, False):
            library.cuStreamSynchronize(STREAM)

    timer.flush_next()
    assert timer.timed_ns(stops_once) == CALL_NS
    assert log.taken().count("evict*") == 2, "a cold call is cold again"
    assert timer.remarks == []


def test_without_a_gate_calls_are_timed_and_the_table_says_so() -> None:
    log = Log()
    library = RecordingLibrary(log)
    library.fails["cuModuleLoadData"] = 221
    timer = GpuTimer(CudaDriver(library), STREAM, clock="gpu")
    assert timer.timed_ns(lambda: log("run")) == CALL_NS
    assert log.taken() == ["record begin", "run", "record end", "wait"]
    assert "CUDA error 221 of cuModuleLoadData" in timer.remarks[0]


def test_the_turns_of_the_gate_go_on_past_the_end_of_their_word() -> None:
    timer, library, log = _timer()
    gate: Any = vars(timer)["_gate"]
    vars(gate)["_turn"] = 2**32 - 2
    library.words[0], library.turn = 2**32 - 2, 2**32 - 2
    for expected in (2**32 - 1, 1):
        timer.timed_ns(lambda: log("run"))
        assert (library.turn, library.words[0]) == (expected, expected)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_the_gate_is_assembled_for_gpus_old_and_new(architecture: str, tmp_path: Path) -> None:
    """By NVIDIA's assembler, which comes with PyTorch; where there is a GPU, the driver does it."""
    triton = pytest.importorskip("triton")
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if not assembler.exists():
        pytest.skip("this triton has no assembler")
    source = tmp_path / "gate.ptx"
    source.write_bytes(KERNEL.removesuffix(b"\0"))
    command = [assembler, f"-arch={architecture}", source, "-o", tmp_path / "gate.cubin"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_warming_up_keeps_the_gpu_at_work() -> None:
    timer, _, log = _timer()
    timer.warm_up(1.0)
    taken = log.taken()
    assert set(taken) == {"evict", "wait"}
    assert taken[-1] == "wait"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, "the GPU has no room: .*; 3 of 8 MiB are free: .*nvidia-smi"),
        (719, "the GPU can be used no longer: .*xid.*what was measured before is kept"),
        (1, "the NVIDIA driver refused: words for 1"),
    ],
)
def test_what_the_driver_refuses_is_one_line_that_says_what_to_do(code: int, words: str) -> None:
    library = RecordingLibrary(Log())
    driver = CudaDriver(library)
    library.fails["cuMemAlloc_v2"] = code
    with pytest.raises(CudaError, match=words) as caught:
        driver.allocate(1)
    assert caught.value.code == code
    assert "\n" not in caught.value.message


def test_work_that_cannot_be_captured_ends_the_capture() -> None:
    timer, _, log = _timer()

    def fail() -> None:
        raise RuntimeFailure("it waits")

    with pytest.raises(RuntimeFailure, match="it waits"):
        timer.captured(fail)
    assert log.taken() == ["capture", "captured", "free graph"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "pytorch", "tensorrt"])
def test_without_a_gpu_the_reason_says_so(runtime: str) -> None:
    if no_gpu() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeFailure, match="nvidia-smi"):
        make_profiler(_profile(runtime))


@pytest.mark.parametrize(
    ("runtime", "module", "extra"),
    [
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
    for name in ("cuda", "pytorch", "onnxruntime"):
        monkeypatch.setattr(f"latbench.profilers.{name}.no_gpu", lambda: None)
    monkeypatch.setitem(sys.modules, module, None)
    reason = PROFILERS[runtime].unavailable(_profile(runtime))
    assert reason is not None
    assert f"pip install 'latbench[{extra}]'" in reason


def test_onnxruntime_without_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch)
    monkeypatch.setattr("latbench.profilers.onnxruntime.no_gpu", lambda: None)
    reason = OnnxRuntimeProfiler.unavailable(_profile("onnxruntime"))
    assert reason is not None
    assert "pip install onnxruntime-gpu" in reason


@pytest.mark.parametrize(
    ("clock", "highest", "trusted"),
    [(1050, 1400, True), (1049, 1400, False), (100, None, True), (None, 1400, True)],
)
def test_a_clock_below_three_quarters_of_the_highest_is_reported_once(
    clock: int | None, highest: int | None, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(monkeypatch, Log())
    install_nvml(monkeypatch, clock=clock, highest=highest)
    watch = ClockWatch(0.75)
    assert watch.verdict() is None, "nothing was measured yet"
    watch()
    reason = watch.verdict()
    assert (reason is None) == trusted
    if reason is not None:
        assert f"runs at {clock} MHz, below 75% of its 1400 MHz" in reason
        assert "(power cap, temperature)" in reason
        assert "--lock-gpu-clocks" in reason
    assert watch.verdict() is None


def test_the_clock_is_asked_between_the_hot_calls_and_before_the_session_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log()
    install_driver(monkeypatch, log)
    install_nvml(monkeypatch)
    monkeypatch.setattr("latbench.profilers.onnxruntime.ort", RecordingOnnxRuntime(log))
    profiler = OnnxRuntimeProfiler(_profile("onnxruntime"))
    session = profiler.open(NETWORK)
    log.taken()
    protocol = SweepProtocol(warmup_calls=1, hot_calls=2, cold_calls=1)
    visit(
        session,
        protocol,
        dwell_ms=0,
        flush=profiler.cache_flusher(),
        watch=lambda: log("clock"),
    )
    calls = [word for word in log.taken() if word in ("run", "run*", "evict*", "clock")]
    assert calls == ["run", "run*", "run*", "clock", "evict*", "run*", "clock"]


def test_untimed_calls_go_on_until_the_clock_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, _, log = _timer("host")

    class Session(PytorchCudaSession):
        def __init__(self) -> None:
            pass

        def call(self) -> None:
            timer.call(lambda: log("run"))

        def timed_call(self) -> int:
            log("timed")
            return 1

    protocol = SweepProtocol(warmup_calls=1, warmup_ms=1.0, hot_calls=1, cold_calls=1)
    visit(Session(), protocol, dwell_ms=0, flush=None)
    assert log.taken().count("run") > 1


def test_a_pass_begins_by_warming_up_and_ends_where_the_clock_stays_low(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log()
    install_driver(monkeypatch, log)
    install_nvml(monkeypatch, clock=900)
    monkeypatch.setattr("latbench.profilers.measured._WARM_UP_MS", 1.0)
    monkeypatch.setattr("latbench.profilers.onnxruntime.ort", RecordingOnnxRuntime(log))
    profiler = OnnxRuntimeProfiler(_profile("onnxruntime"))
    target = block_target(0, NETWORK[:1], SweepProtocol(block_dwell_ms=0))
    with pytest.raises(RuntimeFailure, match="do not count: the GPU runs at 900 MHz"):
        sweep_pass(profiler, [target], number=0)
    assert log.taken()[2] == "evict", "the gate is tried, then the GPU is brought to work"


def test_the_environment_names_gpu_driver_clocks_under_load_and_throttling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log()
    install_driver(monkeypatch, log)
    install_nvml(monkeypatch, clock=900, highest=None)
    monkeypatch.setattr("latbench.profilers.measured._WARM_UP_MS", 1.0)
    expected = Gpu(
        "Recording GPU",
        "600.1",
        clock_mhz=900,
        max_clock_mhz=None,
        throttled_by=["power cap", "temperature"],
        memory_clock_mhz=2600,
        memory_mib=8,
        power_limit_w=700.0,
    )
    assert read_gpu(lambda: log("work")) == expected
    assert log.taken() == ["work"]
    environment = OnnxRuntimeProfiler(_profile("onnxruntime")).environment()
    assert environment.gpu == expected
    assert "evict" in log.taken()
    assert environment.remarks == []


def test_a_gpu_that_fell_off_the_bus_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, Log())
    install_nvml(monkeypatch, lost=True)
    with pytest.raises(RuntimeFailure, match=r"fallen off the bus.* restart the machine"):
        ClockWatch(0.75)()


def test_gpus_of_earlier_tables_are_read() -> None:
    written = {
        "name": "A100",
        "driver": "550.1",
        "clock_mhz": 1400,
        "base_clock_mhz": 1100,
        "max_clock_mhz": 1410,
        "throttled_by": [],
    }
    assert msgspec.convert(written, Gpu).base_clock_mhz == 1100


@pytest.mark.parametrize(("precision", "element"), [("fp32", "float32"), ("fp16", "float16")])
def test_onnxruntime_binds_once_runs_once_and_is_timed_behind_the_gate(
    precision: Precision, element: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    install_driver(monkeypatch, log)
    runtime = RecordingOnnxRuntime(log)
    monkeypatch.setattr("latbench.profilers.onnxruntime.ort", runtime)
    options = {"cudnn_conv_algo_search": "HEURISTIC", "session.use_env_allocators": "1"}
    session = OnnxRuntimeProfiler(_profile("onnxruntime", precision, **options)).open(NETWORK)
    opened = log.taken()
    assert opened[-8:] == [
        f"{element} on cuda",
        "bind input",
        f"{element} on cuda",
        "bind output",
        "wait for inputs",
        "run entry disable_synchronize_execution_providers",
        "run",
        "wait",
    ]
    assert "entry session.use_env_allocators = 1" in opened
    assert "entry session.disable_cpu_ep_fallback = 1" in opened
    assert not any("cudnn_conv_algo_search" in word for word in opened)
    (provider,) = runtime.providers
    assert provider == (
        "CUDAExecutionProvider",
        {
            "use_tf32": "0",
            "device_id": "0",
            "user_compute_stream": str(STREAM),
            "cudnn_conv_algo_search": "HEURISTIC",
        },
    )
    session.call()
    assert log.taken() == ["run", "wait"]
    assert session.timed_call() == CALL_NS
    assert log.taken() == gated("run")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("device_id", "1", "CUDA_VISIBLE_DEVICES chooses the GPU"),
        ("user_compute_stream", "7", "stream of the profiler"),
        ("cudnn_conv_algo_search", "DEFAULT", "write HEURISTIC or EXHAUSTIVE"),
    ],
)
def test_options_of_onnxruntime_that_would_spoil_a_table_are_refused(
    option: str, value: str, words: str
) -> None:
    with pytest.raises(InvalidValueError, match=words) as caught:
        OnnxRuntimeProfiler(_profile("onnxruntime", **{option: value}))
    assert caught.value.path == f"$.options.{option}"


def test_a_gpu_lost_during_a_call_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever words the runtime has for it."""
    log = Log()
    library = install_driver(monkeypatch, log)
    runtime = RecordingOnnxRuntime(log)
    monkeypatch.setattr("latbench.profilers.onnxruntime.ort", runtime)
    session = OnnxRuntimeProfiler(_profile("onnxruntime")).open(NETWORK)

    def fails(*_: object) -> None:
        raise OSError("[E:onnxruntime]\nCUDA failure 719")

    vars(session)["_session"].run_with_iobinding = fails
    with pytest.raises(RuntimeFailure, match=r"refused the network: \[E:onnxruntime\] CUDA fail"):
        session.call()
    library.fails["cuCtxSynchronize"] = 719
    with pytest.raises(RuntimeFailure, match=r"can be used no longer: .*xid"):
        session.timed_call()
    assert not log.is_held()


def test_a_table_of_one_clock_is_not_of_the_other() -> None:
    """Tables of before a profile named a clock are of none, as profiles of processors still are."""
    named, other = (_profile("pytorch", clock=clock) for clock in ("gpu", "host"))
    assert not named.same_device(other)
    written = msgspec.to_builtins(DeviceProfile("c", "onnxruntime"))
    del written["clock"], written["sweep"]["warmup_ms"], written["sweep"]["least_clock"]
    assert msgspec.convert(written, DeviceProfile) == DeviceProfile("c", "onnxruntime")


def test_the_processors_clock_alone_times_the_processor() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        DeviceProfile("c", "onnxruntime", clock="gpu")


def test_onnxruntime_does_not_fall_back_to_the_processor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its loader prints is part of the error, not of the output."""
    log = Log()
    install_driver(monkeypatch, log)
    runtime = RecordingOnnxRuntime(log, loads=False)
    monkeypatch.setattr("latbench.profilers.onnxruntime.ort", runtime)
    for cached in (loaded_libraries, require_loaded_provider):
        cached.cache_clear()
    with pytest.raises(RuntimeFailure, match=r"cannot load it \(no libcudnn.so.9 here\): .*cuDNN"):
        OnnxRuntimeProfiler(_profile("onnxruntime")).open(NETWORK)
    for cached in (loaded_libraries, require_loaded_provider):
        cached.cache_clear()
    assert capsys.readouterr().out == ""


def _recording_module(log: Log) -> tuple[Any, Any]:
    """A module that notes its calls, and its image."""
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            log("compute")
            return x

    return Module(), torch.zeros(2, 3, 4, 4)


def _pytorch_session(
    monkeypatch: pytest.MonkeyPatch, log: Log, *, cuda_graph: bool
) -> PytorchCudaSession:
    library = install_driver(monkeypatch, log)
    module, image = _recording_module(log)
    install_torch_cuda(monkeypatch, log)
    stream = PytorchStream()
    timer = GpuTimer(CudaDriver(library), stream.handle, clock="gpu")
    log.taken()
    return PytorchCudaSession(module, image, stream, timer, cuda_graph=cuda_graph)


def test_pytorch_warms_up_then_captures_then_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    session = _pytorch_session(monkeypatch, log, cuda_graph=True)
    assert log.taken() == [
        *["compute", "wait"] * 3,
        *["wait", "capture", "zeros", "captured"],  # keeps the memory of graphs
        *["wait", "capture in pool", "compute", "captured"],
        *["replay", "wait"],
    ]
    session.call()
    assert log.taken() == ["replay", "wait"]
    assert session.timed_call() == CALL_NS
    assert log.taken() == gated("replay")
    assert session.output().shape == (2, 3, 4, 4)
    session.close()


def test_pytorch_without_a_graph_computes_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    session = _pytorch_session(monkeypatch, log, cuda_graph=False)
    assert "capture" not in log.taken()
    session.timed_call()
    assert log.taken() == gated("compute")


@pytest.mark.parametrize("room_after", [True, False])
def test_pytorch_without_room_gives_back_what_closed_sessions_left_and_tries_again(
    room_after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    torch = pytest.importorskip("torch")
    install_driver(monkeypatch, log)
    install_torch_cuda(monkeypatch, log)
    profiler = PROFILERS["pytorch"](_profile("pytorch"))
    full = iter([True] if room_after else [True, True])

    def loaded(*_: object) -> Any:
        log("load")
        if next(full, False):
            raise torch.OutOfMemoryError("CUDA out of memory.\nSee elsewhere.")
        return lambda image: image, torch.ones(1)

    monkeypatch.setattr(type(profiler), "_loaded", loaded)
    monkeypatch.setattr(type(profiler), "_set_up_process", lambda _: None)
    if room_after:
        profiler.open(NETWORK).close()
    else:
        with pytest.raises(RuntimeFailure, match="no room for it; 3 of 8 MiB are free"):
            profiler.open(NETWORK)
    calls = [word for word in log.taken() if word in ("load", "empty cache")]
    assert calls == ["load", "empty cache", "load"]


@pytest.fixture
def tensorrt_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A recording TensorRT, with a cache folder of its own."""
    log = Log()
    install_driver(monkeypatch, log)
    install_nvml(monkeypatch)
    install_pycuda(monkeypatch, log)
    monkeypatch.setitem(sys.modules, "tensorrt", RecordingTensorrt(log))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return log


def _open_tensorrt(**options: str) -> Any:
    """A session of a profiler that remembers nothing of others."""
    return TensorrtProfiler(_profile("tensorrt", "fp16", **options)).open(NETWORK)


def test_tensorrt_binds_once_captures_is_timed_behind_the_gate_and_frees(
    tensorrt_log: Log, tmp_path: Path
) -> None:
    session = _open_tensorrt()
    assert tensorrt_log.taken() == [
        "push context",
        "without tf32",
        "given 0 bytes of timings",
        BUILD,
        "load",
        *["hold", "wait"],  # the gate is tried
        "bind input",
        "copy in float16[2, 16, 16, 8]",  # three channels, filled up to eight
        "bind output",
        *["run", "wait"],
        *["capture", "run", "captured"],
        *["replay", "wait"],
    ]
    session.call()
    assert tensorrt_log.taken() == ["replay", "wait"]
    assert session.timed_call() == CALL_NS
    assert tensorrt_log.taken() == gated("replay")
    assert session.output().shape == (2, 10)
    tensorrt_log.taken()
    session.close()
    assert tensorrt_log.taken() == ["free graph", "free", "free"]
    (described,) = (tmp_path / "latbench" / "tensorrt").glob("*.json")
    assert json.loads(described.read_text()) == {
        "device_memory_bytes": 1024,
        "layers": 1,
        "information": {"Layers": ["conv, tactic 7"]},
    }


def test_tensorrt_that_cannot_be_captured_is_run_layer_by_layer_and_the_table_says_so(
    tensorrt_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = install_driver(monkeypatch, tensorrt_log)
    library.fails["cuStreamEndCapture"] = 901
    profiler = TensorrtProfiler(_profile("tensorrt", "fp16"))
    for _ in range(2):
        session = profiler.open(NETWORK)
        tensorrt_log.taken()
        session.timed_call()
        assert tensorrt_log.taken() == gated("run")
        session.close()
    (remark,) = profiler.remarks()
    assert "not as CUDA graphs: TensorRT could not be captured" in remark
    assert "CUDA error 901" in remark


def test_tensorrt_by_the_processors_clock_and_without_graphs(tensorrt_log: Log) -> None:
    profile = _profile("tensorrt", "fp16", "host", cuda_graph="false")
    session = TensorrtProfiler(profile).open(NETWORK)
    assert "capture" not in tensorrt_log.taken()
    session.timed_call()
    assert tensorrt_log.taken() == ["run", "wait"]


@pytest.mark.parametrize(
    ("attribute", "words"), [("binds", "memory of the network's input"), ("runs", "compute")]
)
def test_what_tensorrt_answers_is_heeded(attribute: str, words: str, tensorrt_log: Log) -> None:
    setattr(sys.modules["tensorrt"], attribute, False)
    with pytest.raises(RuntimeFailure, match=f"TensorRT refused.*{words}"):
        _open_tensorrt()


@pytest.mark.parametrize("version", ["10.13.3", "11.4.0"])
def test_both_versions_of_tensorrt_build_strongly_typed_networks(
    version: str, tensorrt_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = RecordingTensorrt(tensorrt_log, version=version)
    monkeypatch.setitem(sys.modules, "tensorrt", runtime)
    _open_tensorrt()
    assert "load" in tensorrt_log.taken()


def test_tensorrt_builds_an_engine_once(tensorrt_log: Log) -> None:
    profiler = TensorrtProfiler(_profile("tensorrt", "fp16"))
    for _ in range(2):
        profiler.open(NETWORK).close()
    _open_tensorrt()
    assert [call for call in tensorrt_log.calls if call.startswith("build")] == [BUILD]
    assert tensorrt_log.calls.count("load") == 3


def test_tensorrt_does_not_read_what_others_built(
    tensorrt_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open_tensorrt()
    _open_tensorrt(optimization_level="1")
    monkeypatch.setitem(sys.modules, "tensorrt", RecordingTensorrt(tensorrt_log, version="11.1"))
    _open_tensorrt()
    monkeypatch.setattr("pynvml.nvmlSystemGetDriverVersion", lambda: "601.0")
    _open_tensorrt()
    assert sum(call.startswith("build") for call in tensorrt_log.calls) == 4
    _open_tensorrt(cuda_graph="false")  # which makes no other engine
    assert sum(call.startswith("build") for call in tensorrt_log.calls) == 4


@pytest.mark.parametrize("damage", [b"", b"short", bytes(64)])
def test_tensorrt_builds_again_what_was_damaged(
    damage: bytes, tensorrt_log: Log, tmp_path: Path
) -> None:
    _open_tensorrt()
    files = list((tmp_path / "latbench" / "tensorrt").glob("*.bin"))
    assert len(files) == 2  # the engine and the timings
    for file in files:
        file.write_bytes(damage)
    tensorrt_log.taken()
    _open_tensorrt()
    assert BUILD in tensorrt_log.taken()
    _open_tensorrt()
    assert BUILD not in tensorrt_log.taken()


def test_tensorrt_goes_on_with_the_timings_of_earlier_builds(tensorrt_log: Log) -> None:
    profiler = TensorrtProfiler(_profile("tensorrt", "fp16"))
    profiler.open(NETWORK)
    profiler.open(NETWORK[:1])
    given = [call for call in tensorrt_log.calls if call.startswith("given")]
    assert given == ["given 0 bytes of timings", "given 7 bytes of timings"]


def test_what_tensorrt_refuses_is_reported_in_one_line(
    tensorrt_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latbench.profilers.tensorrt_engines._rendered", lambda *_: b"no model")
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
