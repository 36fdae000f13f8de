"""TensorRT on CUDA.

Networks are strongly typed, which is the only mode of TensorRT 11: types are those of the ONNX
model, which is rendered in the profile's precision. TensorRT may choose channels last or channels
first for inputs and outputs. With channels first alone, a block would pay for a change of layout
that does not happen inside a network.

Building an engine takes seconds, so engines are kept on disk, in the user's cache folder, and so
are the timings by which TensorRT chooses kernels. Both belong to this GPU, this version and these
options, and can be deleted at any time.

Options:

- ``cuda_graph``: calls are captured once and replayed; ``"true"`` unless given. A network that
  TensorRT does not let be captured is computed layer by layer, and the table says so.
- ``optimization_level``: 0 to 5, how long TensorRT looks for fast kernels; ``"3"`` unless given.
- ``tf32``: layers in fp32 may compute in TF32; ``"false"`` unless given.

Written to the documentation of TensorRT 10.13 and 11.4, and not run on a GPU yet.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network, network_graph
from latbench.blocks.graph import INPUT
from latbench.device import DeviceProfile, Precision
from latbench.errors import RuntimeFailure, in_one_line
from latbench.files import cache_folder
from latbench.profilers.base import Profiler, Session, missing_package, read_options
from latbench.profilers.built import BuiltFiles
from latbench.profilers.captured import CapturedGraph
from latbench.profilers.cuda import no_pycuda, pycuda_driver
from latbench.profilers.driver import cuda_driver
from latbench.profilers.gpu import driver_version
from latbench.profilers.timer import GpuTimer
from latbench.render.onnx import ELEMENT_TYPES, OUTPUT, render_onnx
from latbench.render.parameters import random_input

if TYPE_CHECKING:
    import tensorrt as trt

# TensorRT's formats with channels last; in fp16 channels are filled up to a multiple of 8
_CHANNELS_LAST = {"fp32": ("HWC", 1), "fp16": ("HWC8", 8)}
_TIMING_ITERATIONS = 8  # times that a kernel is run to be chosen by, as trtexec does
_TIMINGS = b"timings of kernels"  # what their one file is kept under


class TensorrtOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of ``[options]``."""

    cuda_graph: bool = True
    optimization_level: Annotated[int, msgspec.Meta(ge=0, le=5)] = 3
    tf32: bool = False


@dataclass(frozen=True)
class Layout:
    """Memory layout of an input or output.

    Attributes:
        shape: Shape ``(N, C, H, W)`` or ``(N, K)``.
        lanes: If positive, channels are last and padded to a multiple of this; 0 for no change.
    """

    shape: tuple[int, ...]
    lanes: int = 0

    @property
    def packed_shape(self) -> tuple[int, ...]:
        if not self.lanes:
            return self.shape
        batch_size, channels, height, width = self.shape
        return (batch_size, height, width, -(-channels // self.lanes) * self.lanes)

    def pack(self, values: NDArray[Any]) -> NDArray[Any]:
        if not self.lanes:
            return np.ascontiguousarray(values)
        packed = np.zeros(self.packed_shape, values.dtype)
        packed[..., : self.shape[1]] = values.transpose(0, 2, 3, 1)
        return packed

    def unpack(self, packed: NDArray[Any]) -> NDArray[Any]:
        return packed[..., : self.shape[1]].transpose(0, 3, 1, 2) if self.lanes else packed


class TensorrtSession(Session):
    """An execution context, with input and output in the GPU's memory."""

    def __init__(
        self, engine: trt.ICudaEngine, precision: Precision, timer: GpuTimer, *, cuda_graph: bool
    ) -> None:
        self._driver, self._timer = pycuda_driver(), timer
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeFailure("TensorRT refused the network: the GPU has no room for it")
        self._buffers: list[Any] = []
        layout = _layout(engine, INPUT, precision)
        image = layout.pack(random_input(layout.shape).astype(ELEMENT_TYPES[precision]))
        self._driver.memcpy_htod(self._bind(INPUT, image.nbytes), image)
        self._layout = _layout(engine, OUTPUT, precision)
        self._packed = np.empty(self._layout.packed_shape, ELEMENT_TYPES[precision])
        self._out = self._bind(OUTPUT, self._packed.nbytes)
        timer.call(
            self._execute
        )  # what is loaded at the first call can be neither held nor captured
        self._graph = self._captured() if cuda_graph else None

    def call(self) -> None:
        self._timer.call(self._enqueue)

    def timed_call(self) -> int:
        return self._timer.timed_ns(self._enqueue)

    def output(self) -> NDArray[np.float32]:
        self._driver.memcpy_dtoh(self._packed, self._out)
        return self._layout.unpack(self._packed).astype(np.float32)

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        del self._graph, self._context, self._engine
        for buffer in self._buffers:
            buffer.free()

    def _bind(self, name: str, size_bytes: int) -> Any:
        buffer = self._driver.mem_alloc(size_bytes)
        self._buffers.append(buffer)
        if not self._context.set_tensor_address(name, int(buffer)):
            raise RuntimeFailure(f"TensorRT refused the memory of the network's {name}")
        return buffer

    def _captured(self) -> CapturedGraph | None:
        try:
            graph = self._timer.captured(self._execute)
        except RuntimeFailure as error:
            self._timer.remark(
                "Some networks were computed layer by layer, not as CUDA graphs: TensorRT could "
                f"not be captured ({error.message})."
            )
            return None
        self._timer.call(graph.launch)  # the first launch of a graph uploads it
        return graph

    def _enqueue(self) -> None:
        if self._graph is None:
            self._execute()
        else:
            self._graph.launch()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._timer.stream):
            raise RuntimeFailure("TensorRT refused to compute the network")


class TensorrtProfiler(Profiler):
    """Measures under TensorRT."""

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        self.options = read_options(profile, TensorrtOptions)
        self._keys: dict[Network, str] = {}
        self._builder: EngineBuilder | None = None

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        if profile.device != "cuda":
            return "TensorRT measures on cuda"
        return no_pycuda() or missing_package("tensorrt", "TensorRT", "tensorrt")

    def open(self, network: Network) -> Session:
        assert self.gpu is not None, "the profile is of cuda"
        driver = pycuda_driver()
        if self._builder is None:
            self._builder = EngineBuilder(self.profile.precision, self.options)
        try:
            return TensorrtSession(
                self._engine(self._builder, network),
                self.profile.precision,
                self.gpu.timer,
                cuda_graph=self.options.cuda_graph,
            )
        except driver.MemoryError as error:
            raise RuntimeFailure(
                f"TensorRT refused the network: the GPU has no room for it; {cuda_driver().room()}"
            ) from error
        except driver.Error as error:
            why = cuda_driver().why_lost() or in_one_line(error)
            raise RuntimeFailure(f"TensorRT refused the network: {why}") from error

    def stream(self) -> int:
        return int(self._stream.handle)

    def versions(self) -> dict[str, str]:
        import tensorrt as trt

        return {"tensorrt": trt.__version__, "numpy": np.__version__}

    @cached_property
    def _stream(self) -> Any:
        return pycuda_driver().Stream()

    def _engine(self, builder: EngineBuilder, network: Network) -> trt.ICudaEngine:
        """The network's engine, from disk if it is there; its model is rendered only if not."""
        key = self._keys.get(network)
        engine = None if key is None else builder.kept(key)
        if engine is None:
            profile = self.profile
            model = _rendered(network, profile.batch_size, profile.precision)
            self._keys[network], engine = builder.engine(model)
        return engine


class EngineBuilder:
    """Builds engines, and keeps them on disk with the timings that the building took."""

    def __init__(self, precision: Precision, options: TensorrtOptions) -> None:
        import tensorrt as trt

        self._trt, self._precision, self._options = trt, precision, options
        self._errors: list[str] = []
        self._log = _log_into(self._errors)
        self._runtime = trt.Runtime(self._log)
        driver = cuda_driver()
        made_by = (
            trt.__version__,
            driver_version(),
            driver.cuda_version,
            driver.name,
            precision,
            msgspec.json.encode(options).decode(),
        )
        self._files = BuiltFiles(cache_folder() / "tensorrt", made_by)

    def engine(self, model: bytes) -> tuple[str, trt.ICudaEngine]:
        """The engine of an ONNX model, and the key it is kept under.

        Raises:
            RuntimeFailure: TensorRT refused the model.
        """
        key = self._files.key(model)
        engine = self.kept(key)
        if engine is None:
            plan = self._build(model)
            self._files.keep(key, plan)
            engine = self._loaded(plan)
            if engine is None:
                raise self._refused()
            self._files.note(key, self._described(engine))
        return key, engine

    def kept(self, key: str) -> trt.ICudaEngine | None:
        """The engine kept under a key; None if there is none that can be read."""
        plan = self._files.read(key)
        return None if plan is None else self._loaded(plan)

    def _loaded(self, plan: bytes) -> trt.ICudaEngine | None:
        self._errors.clear()  # what is said from here on is of this plan
        return self._runtime.deserialize_cuda_engine(plan)

    def _described(self, engine: trt.ICudaEngine) -> str:
        """Device memory, layers and their tactics, as JSON."""
        inspector = engine.create_engine_inspector()
        layers = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        information: Any = layers
        with suppress(msgspec.DecodeError):  # a note, which not every version writes as JSON
            information = msgspec.json.decode(layers)
        described = {
            "device_memory_bytes": engine.device_memory_size_v2,
            "layers": engine.num_layers,
            "information": information,
        }
        return msgspec.json.format(msgspec.json.encode(described)).decode()

    def _build(self, model: bytes) -> bytes:
        trt = self._trt
        self._errors.clear()
        builder = trt.Builder(self._log)
        network = builder.create_network(self._strongly_typed())
        if not trt.OnnxParser(network, self._log).parse(model):
            raise self._refused()
        name, _ = _CHANNELS_LAST[self._precision]
        formats = (trt.TensorFormat.LINEAR, getattr(trt.TensorFormat, name))
        for tensor in (network.get_input(0), network.get_output(0)):
            if len(tensor.shape) == 4:
                tensor.allowed_formats = sum(1 << int(format_) for format_ in formats)
        config = builder.create_builder_config()
        config.builder_optimization_level = self._options.optimization_level
        config.avg_timing_iterations = _TIMING_ITERATIONS
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names tactics; free of cost
        if not self._options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        self._give_timings(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._refused()
        self._files.keep(self._files.key(_TIMINGS), bytes(config.get_timing_cache().serialize()))
        return bytes(plan)

    def _strongly_typed(self) -> int:
        """The flag of networks whose types are those of the model; version 11 has no others."""
        if int(self._trt.__version__.split(".")[0]) >= 11:
            return 0
        return 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def _give_timings(self, config: trt.IBuilderConfig) -> None:
        """Let the builder read and extend the timings of earlier builds."""
        kept = self._files.read(self._files.key(_TIMINGS))
        cache = config.create_timing_cache(kept or b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def _refused(self) -> RuntimeFailure:
        why = "; ".join(self._errors) or "it does not say why"
        return RuntimeFailure(f"TensorRT refused the network: {why}")


def _rendered(network: Network, batch_size: int, precision: Precision) -> bytes:
    graph = network_graph(network)
    model: bytes = render_onnx(
        graph, batch_size=batch_size, precision=precision
    ).SerializeToString()
    return model


def _layout(engine: trt.ICudaEngine, name: str, precision: Precision) -> Layout:
    """Layout that TensorRT chose among the allowed formats."""
    format_name, lanes = _CHANNELS_LAST[precision]
    is_channels_last = engine.get_tensor_format(name).name == format_name
    return Layout(tuple(engine.get_tensor_shape(name)), lanes if is_channels_last else 0)


def _log_into(errors: list[str]) -> trt.ILogger:
    """Logger that prints nothing and collects errors for our own messages."""
    import tensorrt as trt

    class Log(trt.ILogger):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # TensorRT requires this call instead of super()

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(" ".join(message.split()))

    return Log()
