# ruff: noqa: N802 - methods are named as what they play
"""Stand-ins for CUDA that record the order of calls and compute nothing.

They take the place of the CUDA driver, of PyCUDA, of the CUDA side of ONNX Runtime, PyTorch and
TensorRT, and of NVML, where there is no GPU. A test that passes on them says that the profilers
ask for things in the right order, and nothing of what a GPU would answer: tests marked ``gpu`` do.

Each stand-in appends to one shared list, which a test compares or searches. What is put on the
stream while the gate is closed has a star behind it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from ctypes import POINTER, Array, addressof, c_uint, c_uint64, cast
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from latbench.profilers.cuda import pycuda_driver
from latbench.profilers.driver import CudaDriver
from latbench.profilers.gpu import nvml_device

L2_BYTES = 4096
CALL_MS = 2.5  # what two events say lay between them
STREAM = 77


@dataclass
class Log:
    """The calls so far, as words."""

    calls: list[str] = field(default_factory=list)
    is_held: Callable[[], bool] = lambda: False

    def __call__(self, word: str) -> None:
        self.calls.append(word + "*" * self.is_held())

    def taken(self) -> list[str]:
        """The calls since the last look."""
        calls, self.calls = self.calls, []
        return calls


class RecordingLibrary:
    """``libcuda.so.1``, as ctypes shows it.

    The gate is played: it gives up where the stream is waited for before it is released.

    Attributes:
        fails: Codes that calls answer with, by name.
    """

    def __init__(self, log: Log) -> None:
        self.log, self.fails = log, dict[str, int]()
        self.words: Array[c_uint] = (c_uint * 2)()
        self.turn = self.handles = 0
        self.events: dict[int, str] = {}
        log.is_held = lambda: self.turn != self.words[0]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        play = getattr(self, f"_{name.removeprefix('cu')}", lambda *_: None)

        def call(*arguments: Any) -> int:
            if name in self.fails:
                return self.fails[name]
            play(*arguments)
            return 0

        setattr(self, name, call)  # what ctypes' types are set on
        return call

    def _new(self, handle: Any) -> int:
        self.handles += 1
        handle._obj.value = self.handles
        return self.handles

    def _DeviceGetCount(self, count: Any) -> None:
        count._obj.value = 1

    def _DriverGetVersion(self, version: Any) -> None:
        version._obj.value = 13000

    def _DeviceGetName(self, name: Any, *_: object) -> None:
        name.value = b"Recording GPU"

    def _DeviceGetPCIBusId(self, name: Any, *_: object) -> None:
        name.value = b"0000:65:00.0"

    def _DeviceGetAttribute(self, value: Any, *_: object) -> None:
        value._obj.value = L2_BYTES

    def _MemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = 3 << 20, 8 << 20

    def _MemAlloc_v2(self, address: Any, _: int) -> None:
        self._new(address)

    def _MemsetD8Async(self, _: int, value: int, size_bytes: int, stream: int) -> None:
        assert (value, size_bytes, stream) == (0, L2_BYTES, STREAM)
        self.log("evict")

    def _MemHostAlloc(self, address: Any, size_bytes: int, _: int) -> None:
        assert size_bytes == 8
        address._obj.value = addressof(self.words)

    def _MemHostGetDevicePointer_v2(self, there: Any, here: Any, _: int) -> None:
        there._obj.value = here.value

    def _ModuleLoadData(self, module: Any, ptx: bytes) -> None:
        assert b".entry hold(" in ptx
        self._new(module)

    def _ModuleGetFunction(self, kernel: Any, *_: object) -> None:
        self._new(kernel)

    def _LaunchKernel(self, _: int, *rest: Any) -> None:
        stream, arguments = rest[7:9]
        assert stream == STREAM
        word = cast(arguments[0], POINTER(c_uint64)).contents.value
        assert word == addressof(self.words)
        self.log("hold")
        self.turn = cast(arguments[1], POINTER(c_uint)).contents.value

    def _EventCreate(self, event: Any, _: int) -> None:
        self.events[self._new(event)] = "end" if len(self.events) % 2 else "begin"

    def _EventRecord(self, event: int, stream: int) -> None:
        assert stream == STREAM, "an event on another stream times something else"
        self.log(f"record {self.events[event]}")

    def _EventElapsedTime(self, taken_ms: Any, begin: int, end: int) -> None:
        assert begin < end
        taken_ms._obj.value = CALL_MS

    def _StreamCreate(self, stream: Any, _: int) -> None:
        stream._obj.value = STREAM

    def _StreamSynchronize(self, stream: int) -> None:
        assert stream == STREAM
        self.log("wait")
        if self.log.is_held():
            self.words[1], self.words[0] = self.turn, self.turn

    def _StreamBeginCapture_v2(self, stream: int, _: int) -> None:
        assert stream == STREAM
        self.log("capture")

    def _StreamEndCapture(self, stream: int, graph: Any) -> None:
        assert stream == STREAM
        self.log("captured")
        self._new(graph)

    def _GraphInstantiateWithFlags(self, executable: Any, *_: object) -> None:
        self._new(executable)

    def _GraphLaunch(self, _: int, stream: int) -> None:
        assert stream == STREAM
        self.log("replay")

    def _GraphExecDestroy(self, _: int) -> None:
        self.log("free graph")

    def cuGetErrorString(self, code: Any, text: Any) -> int:
        text._obj.value = f"words for {code.value}".encode()
        return 0


def install_driver(monkeypatch: pytest.MonkeyPatch, log: Log) -> RecordingLibrary:
    """Put a recording driver in the place of the GPU's."""
    library = RecordingLibrary(log)
    driver = CudaDriver(library)
    for module in (
        "measured",
        "gpu",
        "onnxruntime",
        "pytorch_cuda",
        "tensorrt",
        "tensorrt_engines",
    ):
        monkeypatch.setattr(f"latbench.profilers.{module}.cuda_driver", lambda: driver)
    return library


class RecordingBuffer:
    """Device memory of PyCUDA."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __int__(self) -> int:
        return 4096

    def free(self) -> None:
        self._log("free")


def install_pycuda(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """Put a recording of PyCUDA's driver interface in its place."""
    package, driver = ModuleType("pycuda"), ModuleType("pycuda.driver")
    context = SimpleNamespace(push=lambda: log("push context"), pop=lambda: None)

    def device(index: int) -> object:
        assert index == 0
        return SimpleNamespace(retain_primary_context=lambda: context)

    members: dict[str, Any] = {
        "init": lambda: None,
        "Device": device,
        "Stream": lambda: SimpleNamespace(handle=STREAM),
        "mem_alloc": lambda _: RecordingBuffer(log),
        "memcpy_htod": lambda _, values: log(f"copy in {values.dtype}{list(values.shape)}"),
        "memcpy_dtoh": lambda *_: log("copy out"),
        "Error": type("Error", (Exception,), {}),
        "MemoryError": type("MemoryError", (Exception,), {}),
    }
    vars(driver).update(members)
    vars(package).update(driver=driver)
    for module in (package, driver):
        module.__spec__ = ModuleSpec(module.__name__, None, origin="recording")
        monkeypatch.setitem(sys.modules, module.__name__, module)
    pycuda_driver.cache_clear()


def install_nvml(
    monkeypatch: pytest.MonkeyPatch,
    *,
    clock: int | None = 1400,
    highest: int | None = 1400,
    lost: bool = False,
) -> None:
    """Put clocks in MHz in NVML's place; None is a clock that the board does not report."""

    class NVMLError(Exception):
        value = 15 if lost else 3

    def reporting(value: int | None) -> Callable[..., int]:
        def answer(*_: object) -> int:
            if value is None or lost:
                raise NVMLError
            return value

        return answer

    def handle(bus_id: str) -> object:
        assert bus_id == "0000:65:00.0"
        return object()

    nvml = ModuleType("pynvml")
    nvml.__spec__ = ModuleSpec("pynvml", None, origin="recording")
    reasons = {
        "SwPowerCap": 1,
        "HwSlowdown": 2,
        "SyncBoost": 4,
        "SwThermalSlowdown": 8,
        "HwThermalSlowdown": 16,
        "HwPowerBrakeSlowdown": 32,
    }
    clocks = {1: reporting(clock), 2: reporting(2600)}
    members: dict[str, Any] = {
        "NVMLError": NVMLError,
        "NVML_ERROR_GPU_IS_LOST": 15,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByPciBusId": handle,
        "nvmlSystemGetDriverVersion": lambda: "600.1",
        "nvmlDeviceGetClockInfo": lambda _, kind: clocks[kind](),
        "nvmlDeviceGetMaxClockInfo": reporting(highest),
        "nvmlDeviceGetEnforcedPowerLimit": reporting(700_000),
        "nvmlDeviceGetCurrentClocksEventReasons": reporting(1 | 8),
        **{f"nvmlClocksEventReason{name}": bit for name, bit in reasons.items()},
    }
    vars(nvml).update(members)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    nvml_device.cache_clear()


class RecordingOnnxRuntime(ModuleType):
    """What the profiler uses of ``onnxruntime``, with a CUDA provider."""

    def __init__(self, log: Log, *, loads: bool = True) -> None:
        super().__init__("onnxruntime")
        self.log, self.loads = log, loads
        self.providers: list[Any] = []
        value = SimpleNamespace(numpy=lambda: np.zeros((2, 10), np.float32))

        def options() -> object:
            entries: dict[str, str] = {}

            def add(key: str, value: str) -> None:
                log(f"entry {key} = {value}")
                entries[key] = value

            return SimpleNamespace(
                entries=entries,
                add_session_config_entry=add,
                add_external_initializers=lambda names, _: log("weights"),
            )

        def from_numpy(values: np.ndarray, device: str = "cpu", _: int = 0) -> object:
            log(f"{values.dtype} on {device}")
            return value

        def empty(shape: object, dtype: object, device: str, _: int) -> object:
            log(f"{np.dtype(dtype)} on {device}")  # type: ignore[call-overload]
            return value

        members: dict[str, Any] = {
            "SessionOptions": options,
            "RunOptions": lambda: SimpleNamespace(
                add_run_config_entry=lambda key, _: log(f"run entry {key}")
            ),
            "OrtValue": SimpleNamespace(
                ortvalue_from_numpy=from_numpy, ortvalue_from_shape_and_type=empty
            ),
            "InferenceSession": self._session,
            "get_available_providers": lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
            "preload_dlls": lambda: sys.stdout.write("no libcudnn.so.9\nhere"),
            "set_default_logger_severity": lambda severity: None,
            "__version__": "0",
        }
        vars(self).update(members)

    def _session(
        self, model: bytes, options: Any, *, providers: list[Any], enable_fallback: int
    ) -> object:
        assert not enable_fallback, "it would print, and hide the error"
        if not self.loads and "session.disable_cpu_ep_fallback" in options.entries:
            raise RuntimeError("fallback to CPU EP has been explicitly disabled by the user")
        self.providers = providers
        log = self.log
        names = ["CUDAExecutionProvider"] if self.loads else ["CPUExecutionProvider"]
        binding = SimpleNamespace(
            bind_ortvalue_input=lambda name, _: log(f"bind {name}"),
            bind_ortvalue_output=lambda name, _: log(f"bind {name}"),
            synchronize_inputs=lambda: log("wait for inputs"),
            synchronize_outputs=lambda: log("wait for outputs"),
        )
        (given,) = onnx.load_model_from_string(model).graph.output
        element = onnx.TensorProto.DataType.Name(given.type.tensor_type.elem_type).lower()
        output = SimpleNamespace(name=given.name, shape=[2, 10], type=f"tensor({element})")
        return SimpleNamespace(
            io_binding=lambda: binding,
            get_outputs=lambda: [output],
            get_providers=lambda: names,
            run_with_iobinding=lambda *_: log("run"),
        )


def install_torch_cuda(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """Put recordings in the place of what the profiler uses of ``torch.cuda``."""
    torch = pytest.importorskip("torch")
    stream = SimpleNamespace(cuda_stream=STREAM, synchronize=lambda: log("wait"))

    class Graph:
        def capture_begin(self, *, pool: object, capture_error_mode: str) -> None:
            assert capture_error_mode == "thread_local"
            log("capture" if pool is None else f"capture in {pool}")

        def capture_end(self) -> None:
            log("captured")

        def pool(self) -> str:
            return "pool"

        def replay(self) -> None:
            log("replay")

    monkeypatch.setattr(torch, "zeros", lambda *_, **__: log("zeros"))
    for name, member in {
        "Stream": lambda _: stream,
        "CUDAGraph": Graph,
        "set_device": lambda _: None,
        "set_stream": lambda _: None,
        "empty_cache": lambda: log("empty cache"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, member)


class _TensorFormat(IntEnum):
    LINEAR = 0
    HWC8 = 2
    HWC = 8


class RecordingTensorrt(ModuleType):
    """``tensorrt``: builds plans of a few bytes and runs them without computing.

    A model that starts with ``no`` is refused, and so is a plan that is not what was built.
    """

    PLAN, TIMINGS = b"plan", b"timings"

    def __init__(self, log: Log, *, version: str = "11.0") -> None:
        super().__init__("tensorrt")
        self.log = log
        self.binds = self.runs = True
        self.tensors = {
            "input": SimpleNamespace(shape=(2, 3, 16, 16), allowed_formats=1),
            "output": SimpleNamespace(shape=(2, 10), allowed_formats=1),
        }
        flags = SimpleNamespace(TF32="tf32")
        members: dict[str, Any] = {
            "__version__": version,
            "ILogger": type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "Severity": int}),
            "TensorFormat": _TensorFormat,
            "NetworkDefinitionCreationFlag": SimpleNamespace(STRONGLY_TYPED=1),
            "ProfilingVerbosity": SimpleNamespace(DETAILED="detailed"),
            "LayerInformationFormat": SimpleNamespace(JSON="json"),
            "BuilderFlag": flags,
            "Builder": lambda _: SimpleNamespace(
                create_network=self._network,
                create_builder_config=self._config,
                build_serialized_network=self._build,
            ),
            "OnnxParser": self._parser,
            "Runtime": lambda _: SimpleNamespace(deserialize_cuda_engine=self._engine),
        }
        vars(self).update(members)

    def _network(self, flags: int) -> object:
        typed = 2 if self.__version__.startswith("10") else 0
        assert flags == typed, "version 11 knows strongly typed networks alone"
        tensors = self.tensors
        return SimpleNamespace(
            get_input=lambda _: tensors["input"], get_output=lambda _: tensors["output"]
        )

    def _config(self) -> object:
        log = self.log

        def set_timing_cache(cache: bytes, *, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            log(f"given {len(cache)} bytes of timings")
            return True

        return SimpleNamespace(
            clear_flag=lambda flag: log(f"without {flag}"),
            create_timing_cache=lambda kept: kept,
            set_timing_cache=set_timing_cache,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: self.TIMINGS),
        )

    def _build(self, _: object, config: Any) -> bytes:
        level, times = config.builder_optimization_level, config.avg_timing_iterations
        self.log(f"build at level {level}, {times} timings")
        return self.PLAN

    def _parser(self, _: object, logger: Any) -> object:
        def parse(model: bytes) -> bool:
            if model.startswith(b"no"):
                logger.log(1, "this is\nno model")
                return False
            return True

        return SimpleNamespace(parse=parse)

    def _engine(self, plan: bytes) -> object | None:
        log, tensors = self.log, self.tensors
        if plan != self.PLAN:
            return None
        log("load")

        def execute(handle: int) -> bool:
            assert handle == STREAM
            log("run")
            return self.runs

        def bind(name: str, _: int) -> bool:
            log(f"bind {name}")
            return self.binds

        context = SimpleNamespace(set_tensor_address=bind, execute_async_v3=execute)
        allowed = {name: tensor.allowed_formats for name, tensor in tensors.items()}
        return SimpleNamespace(
            create_execution_context=lambda: context,
            create_engine_inspector=lambda: SimpleNamespace(
                get_engine_information=lambda _: '{"Layers": ["conv, tactic 7"]}'
            ),
            device_memory_size_v2=1024,
            num_layers=1,
            get_tensor_shape=lambda name: tensors[name].shape,
            # the last of the formats it was allowed
            get_tensor_format=lambda name: _TensorFormat(allowed[name].bit_length() - 1),
        )
