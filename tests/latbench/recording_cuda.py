"""Stand-ins for CUDA that record the order of calls and compute nothing.

They take the place of PyCUDA's driver interface, of the CUDA side of ONNX Runtime, PyTorch and
TensorRT, and of NVML, where there is no GPU. A test that passes on them says that the profilers
ask for things in the right order, and nothing of what a GPU would answer: tests marked ``gpu`` do.

Each stand-in appends to one shared list, which a test compares or searches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

L2_BYTES = 4096
CALL_MS = 2.5  # what two events say lay between them


@dataclass
class Log:
    """The calls so far, as words."""

    calls: list[str] = field(default_factory=list)

    def __call__(self, word: str) -> None:
        self.calls.append(word)

    def taken(self) -> list[str]:
        """The calls since the last look."""
        calls, self.calls = self.calls, []
        return calls


class RecordingEvent:
    """An event of PyCUDA or of PyTorch."""

    def __init__(self, log: Log, name: str) -> None:
        self._log, self._name = log, name

    def record(self, stream: object = None) -> None:
        assert stream is not None, "an event on the default stream times something else"
        self._log(f"record {self._name}")

    def synchronize(self) -> None:
        self._log(f"wait for {self._name}")

    def time_till(self, _: RecordingEvent) -> float:
        self._log("read time")
        return CALL_MS

    elapsed_time = time_till


class RecordingStream:
    """A stream of PyCUDA or of PyTorch."""

    handle = cuda_stream = 77

    def __init__(self, log: Log) -> None:
        self._log = log

    def synchronize(self) -> None:
        self._log("wait for stream")


class RecordingBuffer:
    """Device memory of PyCUDA."""

    def __init__(self, log: Log, size_bytes: int) -> None:
        self._log, self.size_bytes = log, size_bytes

    def __int__(self) -> int:
        return 4096

    def free(self) -> None:
        self._log("free")


class RecordingDriver(ModuleType):
    """``pycuda.driver``: streams, events, memory."""

    def __init__(self, log: Log) -> None:
        super().__init__("pycuda.driver")
        names = iter(("begin", "end") * 100)
        device = SimpleNamespace(get_attribute=lambda _: L2_BYTES, name=lambda: "Recording GPU")
        context = SimpleNamespace(
            get_device=lambda: device, synchronize=lambda: log("wait for device")
        )

        def write(buffer: RecordingBuffer, _: int, size_bytes: int) -> None:
            log(f"write {size_bytes} of {buffer.size_bytes} bytes")

        members: dict[str, Any] = {
            "Stream": lambda: RecordingStream(log),
            "Event": lambda: RecordingEvent(log, next(names)),
            "mem_alloc": lambda size_bytes: RecordingBuffer(log, size_bytes),
            "memset_d8": write,
            "memcpy_htod": lambda _, values: log(f"copy in {values.dtype}{list(values.shape)}"),
            "memcpy_dtoh": lambda *_: log("copy out"),
            "Context": context,
            "Error": RuntimeError,
            "device_attribute": SimpleNamespace(L2_CACHE_SIZE="l2"),
        }
        vars(self).update(members)


def install_pycuda(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """Put the recording driver in PyCUDA's place."""
    package, context = ModuleType("pycuda"), ModuleType("pycuda.autoprimaryctx")
    driver = RecordingDriver(log)
    vars(package).update(driver=driver, autoprimaryctx=context)
    for module in (package, context, driver):
        module.__spec__ = ModuleSpec(module.__name__, None, origin="recording")
        monkeypatch.setitem(sys.modules, module.__name__, module)


def install_nvml(
    monkeypatch: pytest.MonkeyPatch,
    *,
    clock: int | None = 1400,
    base: int | None = 1100,
    highest: int | None = 1400,
) -> None:
    """Put clocks in MHz in NVML's place; None is not told."""

    class NVMLError(Exception):
        pass

    def tells(value: int | None) -> Callable[..., int]:
        def answer(*_: object) -> int:
            if value is None:
                raise NVMLError
            return value

        return answer

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
    members: dict[str, Any] = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "nvmlDeviceGetName": lambda _: "Recording GPU",
        "nvmlSystemGetDriverVersion": lambda: "600.1",
        "nvmlDeviceGetClockInfo": tells(clock),
        "nvmlDeviceGetDefaultApplicationsClock": tells(base),
        "nvmlDeviceGetMaxClockInfo": tells(highest),
        "nvmlDeviceGetCurrentClocksEventReasons": tells(1 | 8),
        **{f"nvmlClocksEventReason{name}": bit for name, bit in reasons.items()},
    }
    vars(nvml).update(members)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("latbench.profilers.gpu._device", object)


class RecordingOnnxRuntime(ModuleType):
    """What the profiler uses of ``onnxruntime``, with a CUDA provider."""

    def __init__(self, log: Log, *, loads: bool = True) -> None:
        super().__init__("onnxruntime")
        self.log, self.loads = log, loads
        self.providers: list[Any] = []
        value = SimpleNamespace(numpy=lambda: np.zeros((2, 10), np.float32))
        options = SimpleNamespace(
            add_session_config_entry=lambda key, _: log(f"entry {key}"),
            add_external_initializers=lambda names, _: log("weights"),
        )

        def from_numpy(values: np.ndarray, device: str = "cpu", _: int = 0) -> object:
            log(f"{values.dtype} on {device}")
            return value

        def empty(shape: object, dtype: object, device: str, _: int) -> object:
            log(f"{np.dtype(dtype)} on {device}")  # type: ignore[call-overload]
            return value

        members: dict[str, Any] = {
            "SessionOptions": lambda: options,
            "RunOptions": lambda: SimpleNamespace(
                add_run_config_entry=lambda key, _: log(f"run entry {key}")
            ),
            "OrtValue": SimpleNamespace(
                ortvalue_from_numpy=from_numpy, ortvalue_from_shape_and_type=empty
            ),
            "InferenceSession": self._session,
            "get_available_providers": lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
            "__version__": "0",
        }
        vars(self).update(members)

    def _session(self, model: bytes, options: object, *, providers: list[Any]) -> object:
        self.providers = providers
        log = self.log
        names = ["CUDAExecutionProvider"] if self.loads else ["CPUExecutionProvider"]
        binding = SimpleNamespace(
            bind_ortvalue_input=lambda name, _: log(f"bind {name}"),
            bind_ortvalue_output=lambda name, _: log(f"bind {name}"),
            synchronize_inputs=lambda: log("wait for inputs"),
            synchronize_outputs=lambda: log("wait for outputs"),
        )
        return SimpleNamespace(
            io_binding=lambda: binding,
            get_outputs=lambda: [SimpleNamespace(shape=[2, 10])],
            get_providers=lambda: names,
            run_with_iobinding=lambda *_: log("run"),
        )


def install_torch_cuda(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """Put recordings in the place of what the profiler uses of ``torch.cuda``."""
    torch = pytest.importorskip("torch")
    names = iter(("begin", "end") * 100)

    class Stream(RecordingStream):
        def wait_stream(self, _: object) -> None:
            log("stream waits for the default one")

    class Graph:
        def replay(self) -> None:
            log("replay")

    @contextmanager
    def capture(_: Graph, stream: object) -> Iterator[None]:
        assert isinstance(stream, Stream)
        log("capture")
        yield
        log("captured")

    buffer = SimpleNamespace(zero_=lambda: log("write"))

    def empty(size_bytes: int, **_: object) -> object:
        log(f"buffer of {size_bytes} bytes")
        return buffer

    properties = SimpleNamespace(L2_cache_size=L2_BYTES)
    monkeypatch.setattr(torch, "empty", empty)
    for name, member in {
        "Stream": lambda: Stream(log),
        "Event": lambda enable_timing: RecordingEvent(log, next(names)),
        "CUDAGraph": Graph,
        "graph": capture,
        "stream": lambda _: nullcontext(),
        "current_stream": lambda: None,
        "synchronize": lambda: log("wait for device"),
        "get_device_properties": lambda _: properties,
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
        self.tensors = {
            "input": SimpleNamespace(shape=(2, 3, 16, 16), allowed_formats=1),
            "output": SimpleNamespace(shape=(2, 10), allowed_formats=1),
        }
        flags = SimpleNamespace(TF32="tf32")
        members: dict[str, Any] = {
            "__version__": version,
            "ILogger": type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "Severity": int}),
            "TensorFormat": _TensorFormat,
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

    def _network(self) -> object:
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
        self.log(f"build at level {config.builder_optimization_level}")
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
            assert handle == RecordingStream.handle
            log("run")
            return True

        context = SimpleNamespace(
            set_tensor_address=lambda name, _: log(f"bind {name}"), execute_async_v3=execute
        )
        allowed = {name: tensor.allowed_formats for name, tensor in tensors.items()}
        return SimpleNamespace(
            create_execution_context=lambda: context,
            get_tensor_shape=lambda name: tensors[name].shape,
            # the last of the formats it was allowed
            get_tensor_format=lambda name: _TensorFormat(allowed[name].bit_length() - 1),
        )
