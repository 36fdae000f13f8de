"""Engines of TensorRT: built from networks, kept on disk, loaded.

Networks are strongly typed, which is the only mode of TensorRT 11: types are those of the ONNX
model, which is rendered in the profile's precision. TensorRT may choose channels last or channels
first for inputs and outputs. With channels first alone, a block would pay for a change of layout
that does not happen inside a network.

Building an engine takes seconds, so engines are kept in the user's cache folder, and so are the
timings by which TensorRT chooses kernels. Both belong to this GPU, this version and these options,
and can be deleted at any time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network, network_graph
from latbench.device import Precision
from latbench.errors import RuntimeFailure
from latbench.files import cache_folder
from latbench.profilers.built import BuiltFiles
from latbench.profilers.driver import cuda_driver
from latbench.profilers.gpu import driver_version
from latbench.render.onnx import render_onnx

if TYPE_CHECKING:
    import tensorrt as trt

# TensorRT's formats with channels last; in fp16 channels are filled up to a multiple of 8
_CHANNELS_LAST = {"fp32": ("HWC", 1), "fp16": ("HWC8", 8)}
_TIMING_ITERATIONS = 8  # times that a kernel is run to be chosen by, as trtexec does
_TIMINGS = b"timings of kernels"  # what their one file is kept under
_RECIPE = 1  # of ``_build``: a change of it makes another engine of the same model


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


def chosen_layout(engine: trt.ICudaEngine, name: str, precision: Precision) -> Layout:
    """Layout that TensorRT chose among the allowed formats."""
    format_name, lanes = _CHANNELS_LAST[precision]
    is_channels_last = engine.get_tensor_format(name).name == format_name
    return Layout(tuple(engine.get_tensor_shape(name)), lanes if is_channels_last else 0)


class Engines:
    """Engines of networks, kept on disk with the timings that building them took.

    Args:
        precision: Type of all tensors.
        batch_size: Number of images a call.
        optimization_level: How long TensorRT looks for fast kernels, 0 to 5.
        tf32: Whether layers in fp32 may compute in TF32.
    """

    def __init__(
        self, precision: Precision, *, batch_size: int, optimization_level: int, tf32: bool
    ) -> None:
        import tensorrt as trt

        self._trt, self._precision, self._batch_size = trt, precision, batch_size
        self._optimization_level, self._tf32 = optimization_level, tf32
        self._keys: dict[Network, str] = {}
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
            f"level {optimization_level}, tf32 {tf32}, recipe {_RECIPE}",
        )
        self._files = BuiltFiles(cache_folder() / "tensorrt", made_by)

    def of(self, network: Network) -> trt.ICudaEngine:
        """The network's engine, from disk if it is there; its model is rendered only if not.

        Raises:
            RuntimeFailure: TensorRT refused the network.
            InvalidFileError: The engine cannot be kept: built anew at every visit, a sweep would
                take days.
        """
        key = self._keys.get(network)
        engine = None if key is None else self._kept(key)
        if engine is None:
            model = _rendered(network, self._batch_size, self._precision)
            key = self._keys[network] = self._files.key(model)
            engine = self._kept(key)
            if engine is None:
                engine = self._built(key, model)
        return engine

    def _built(self, key: str, model: bytes) -> trt.ICudaEngine:
        plan = self._build(model)
        self._files.keep(key, plan)
        engine = self._loaded(plan)
        if engine is None:
            raise self._refused()
        self._files.note(key, self._described(engine))
        return engine

    def _kept(self, key: str) -> trt.ICudaEngine | None:
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
        config.builder_optimization_level = self._optimization_level
        config.avg_timing_iterations = _TIMING_ITERATIONS
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names tactics; free of cost
        if not self._tf32:
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
