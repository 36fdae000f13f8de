"""ONNX Runtime on the CPU and on CUDA.

Options: a key of ``[options]`` with a dot in it is a session configuration entry of ONNX Runtime,
such as ``session.intra_op.allow_spinning``; on CUDA, one without is an option of its CUDA
provider, such as ``cudnn_conv_algo_search``; the GPU and the stream are set here. Denormals are
flushed to zero in every session, and fp32 is computed in fp32, without TF32, unless ``use_tf32``
says otherwise. On CUDA, a network is refused if the CUDA provider cannot compute all of it, because
the rest would run on the processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from io import StringIO
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from latbench.blocks import ConvBlock, Network, network_graph
from latbench.blocks.graph import INPUT, Graph
from latbench.blocks.norm_folding import fold_norms
from latbench.device import DeviceProfile, Precision
from latbench.errors import InvalidValueError, RuntimeFailure, in_one_line
from latbench.models.onnx_model import OnnxModel
from latbench.models.sessions import add_weights
from latbench.profilers.base import Profiler, Session
from latbench.profilers.cuda import no_nvml
from latbench.profilers.driver import GPU_INDEX, cuda_driver
from latbench.profilers.gpu import no_gpu
from latbench.profilers.timer import GpuTimer
from latbench.render.onnx import ELEMENT_TYPES, render_onnx, render_onnx_apart
from latbench.render.parameters import random_input, random_parameters

Array = NDArray[Any]

_ELEMENTS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
_CUDA_PROVIDER = "CUDAExecutionProvider"
_SET_HERE = {
    "device_id": "CUDA_VISIBLE_DEVICES chooses the GPU",
    "user_compute_stream": "calls are timed on a stream of the profiler",
}
_SESSION_KEYS = ("session.", "ep.", "mlas.", "optimization.")  # it accepts any other in silence
_SILENT = 4  # severity of messages of ONNX Runtime: errors are raised anyway


class OnnxRuntimeSession(Session):
    """A session whose inputs and outputs are bound once, so that a call does nothing else.

    Args:
        session: Session of ONNX Runtime.
        inputs: Values of the inputs by name.
    """

    def __init__(self, session: ort.InferenceSession, inputs: Mapping[str, Array]) -> None:
        self._session = session
        self._binding = session.io_binding()
        for name, values in inputs.items():
            self._binding.bind_cpu_input(name, values)
        _bind_outputs(self._binding, session, "cpu")

    def call(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise _refused(error) from error

    def output(self) -> NDArray[np.float32]:
        return _first_output(self._binding)

    def close(self) -> None:
        del self._binding, self._session


class OnnxRuntimeCudaSession(Session):
    """The same on a GPU: inputs and outputs lie in its memory, and calls are timed there."""

    def __init__(
        self, session: ort.InferenceSession, inputs: Mapping[str, Array], timer: GpuTimer
    ) -> None:
        self._session, self._timer = session, timer
        self._binding = session.io_binding()
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(values, "cuda", GPU_INDEX)
            for name, values in inputs.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        _bind_outputs(self._binding, session, "cuda")
        self._binding.synchronize_inputs()
        self._run_options = ort.RunOptions()
        # else a run waits for the GPU, and the event after it is recorded late
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        timer.call(self._enqueue)  # memory, kernels and algorithms are found in the first run

    def call(self) -> None:
        with _refusals_on_gpu():
            self._timer.call(self._enqueue)

    def timed_call(self) -> int:
        with _refusals_on_gpu():
            return self._timer.timed_ns(self._enqueue)

    def output(self) -> NDArray[np.float32]:
        return _first_output(self._binding)

    def close(self) -> None:
        del self._binding, self._session, self._inputs

    def _enqueue(self) -> None:
        self._session.run_with_iobinding(self._binding, self._run_options)


def _bind_outputs(binding: ort.IOBinding, session: ort.InferenceSession, device: str) -> None:
    """Bind all outputs, those of known shape to memory that calls use again."""
    for output in session.get_outputs():
        element = _ELEMENTS.get(output.type)
        if element is not None and all(isinstance(size, int) for size in output.shape):
            memory = ort.OrtValue.ortvalue_from_shape_and_type(
                output.shape, element, device, GPU_INDEX
            )
            binding.bind_ortvalue_output(output.name, memory)
        else:
            binding.bind_output(output.name, device, GPU_INDEX)


def _first_output(binding: ort.IOBinding) -> NDArray[np.float32]:
    values: Array = binding.get_outputs()[0].numpy()
    return values.astype(np.float32, copy=False)


@contextmanager
def _refusals() -> Iterator[None]:
    """Translate what ONNX Runtime raises: its exceptions share no base class."""
    try:
        yield
    except RuntimeFailure:
        raise
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception) -> RuntimeFailure:
    return RuntimeFailure(f"ONNX Runtime refused the network: {in_one_line(error)}")


@contextmanager
def _refusals_on_gpu() -> Iterator[None]:
    """The same, where the cause may be a GPU that can be used no longer."""
    try:
        with _refusals():
            yield
    except RuntimeFailure as error:
        lost = cuda_driver().why_lost()
        if lost is None:
            raise
        raise RuntimeFailure(lost) from error


@lru_cache(maxsize=8192)
def _rendered(network: Network, batch_size: int, precision: Precision) -> tuple[Graph, bytes]:
    """Graph and model of a network (a few KB), kept because every pass of a sweep needs them."""
    graph = fold_norms(network_graph(network))
    model = render_onnx_apart(graph, batch_size=batch_size, precision=precision)
    return graph, model.SerializeToString()


class OnnxRuntimeProfiler(Profiler):
    """Measures under ONNX Runtime.

    Raises:
        InvalidValueError: An option is set by this profiler, or would falsify latencies.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        _require_sound_options(profile)

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        if profile.device == "cuda":
            return no_gpu() or no_nvml() or _no_provider()
        if profile.precision != "fp32":
            return "on the CPU, the ONNX Runtime profiler measures in fp32"
        return None

    def open(self, network: Network) -> Session:
        profile = self.profile
        graph, model = _rendered(network, profile.batch_size, profile.precision)
        element = ELEMENT_TYPES[profile.precision]
        weights = {k: v.astype(element, copy=False) for k, v in random_parameters(graph).items()}
        image = random_input((profile.batch_size, *graph.input_shape)).astype(element, copy=False)
        return self._open(model, weights, {INPUT: image})

    def open_model(self, model: OnnxModel) -> Session:
        return self._open(model.graph, model.weights, model.random_inputs())

    def stream(self) -> int:
        return cuda_driver().new_stream()

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": ort.__version__, "numpy": np.__version__}

    def _open(
        self, model: bytes, weights: Mapping[str, Array], inputs: Mapping[str, Array]
    ) -> Session:
        with _refusals() if self.gpu is None else _refusals_on_gpu():
            options = self._session_options()
            add_weights(options, weights)
            if self.gpu is None:
                return OnnxRuntimeSession(_session(model, options, "CPUExecutionProvider"), inputs)
            timer = self.gpu.timer
            require_loaded_provider()
            provider = (_CUDA_PROVIDER, self._provider_options(timer.stream))
            return OnnxRuntimeCudaSession(_session(model, options, provider), inputs, timer)

    def _session_options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.profile.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if self.profile.device == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        for key, value in self.profile.options.items():
            if "." in key or self.profile.device == "cpu":
                options.add_session_config_entry(key, value)
        return options

    def _provider_options(self, stream: int) -> dict[str, str]:
        own = {key: value for key, value in self.profile.options.items() if "." not in key}
        return {
            "use_tf32": "0",  # models in fp32 are measured by profiles of any precision
            **own,
            "device_id": str(GPU_INDEX),
            "user_compute_stream": str(stream),
        }


def _require_sound_options(profile: DeviceProfile) -> None:
    """Refuse options that nothing would read, that are set here, or that are known to be slow."""
    for name in profile.options:
        of_session = profile.device == "cpu" or "." in name
        if of_session and not name.startswith(_SESSION_KEYS):
            raise InvalidValueError(
                f"{profile.name} sets {name}, which ONNX Runtime does not read: keys of a session "
                f"begin with {', '.join(_SESSION_KEYS)}",
                path=f"$.options.{name}",
            )
    for name, instead in _SET_HERE.items():
        if name in profile.options:
            raise InvalidValueError(
                f"{profile.name} sets {name}: leave it out, {instead}", path=f"$.options.{name}"
            )
    if profile.options.get("cudnn_conv_algo_search") == "DEFAULT":
        raise InvalidValueError(
            f"{profile.name} sets cudnn_conv_algo_search = DEFAULT: since version 1.20 that is "
            "cuDNN's fallback, many times slower than its other algorithms; write HEURISTIC or "
            "EXHAUSTIVE",
            path="$.options.cudnn_conv_algo_search",
        )


def _no_provider() -> str | None:
    if _CUDA_PROVIDER in ort.get_available_providers():
        return None
    return (
        "this ONNX Runtime has no CUDA: run `pip uninstall onnxruntime` and `pip install "
        "onnxruntime-gpu`"
    )


@lru_cache(maxsize=1)
def loaded_libraries() -> str:
    """Load CUDA and cuDNN from where pip puts them; returns what ONNX Runtime said meanwhile."""
    ort.set_default_logger_severity(_SILENT)  # it warns at every session of a GPU by number
    preload = getattr(ort, "preload_dlls", None)  # from 1.21 on
    if preload is None:
        return ""
    with redirect_stdout(StringIO()) as said:  # it prints, and a result may be on its way there
        preload()
    return " ".join(said.getvalue().split())


@lru_cache(maxsize=1)
def require_loaded_provider() -> None:
    """Refuse a CUDA provider that cannot be loaded.

    ONNX Runtime falls back to the processor then, without an error. Where that is forbidden, its
    error is the same as for an operator that the provider does not have. So one convolution is
    opened with the fallback.
    """
    said, options = loaded_libraries(), ort.SessionOptions()
    model = render_onnx(ConvBlock(1, 1, 1, 1, None, 1).graph()).SerializeToString()
    options.log_severity_level = _SILENT
    try:
        providers = _session(model, options, _CUDA_PROVIDER).get_providers()
    except (RuntimeError, ValueError) as error:  # a folder of CUDA is named, and lacks libraries
        providers, said = [], f"{said} {in_one_line(error)}".strip()
    if _CUDA_PROVIDER not in providers:
        why = f" ({said})" if said else ""
        raise RuntimeFailure(
            f"ONNX Runtime has a CUDA provider and cannot load it{why}: it needs CUDA and cuDNN of "
            "the versions it was built for; run `pip install 'onnxruntime-gpu[cuda,cudnn]'`"
        )


def _session(
    model: bytes, options: ort.SessionOptions, provider: str | tuple[str, dict[str, str]]
) -> ort.InferenceSession:
    """A session that prints nothing and tries no other provider if this one fails."""
    return ort.InferenceSession(model, options, providers=[provider], enable_fallback=0)
