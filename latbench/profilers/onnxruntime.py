"""ONNX Runtime on the CPU and on CUDA.

Options: a key of ``[options]`` with a dot in it is a session configuration entry of ONNX Runtime,
such as ``session.intra_op.allow_spinning``; on CUDA, one without is an option of its CUDA
provider, such as ``cudnn_conv_algo_search``. Denormals are flushed to zero in every session, and
fp32 is computed in fp32, without TF32, unless ``use_tf32`` says otherwise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from latbench.blocks import Network, network_graph
from latbench.blocks.graph import INPUT, Graph, fold_norms
from latbench.device import DeviceProfile, Precision
from latbench.errors import RuntimeFailure
from latbench.profilers.base import Flush, Profiler, Session
from latbench.profilers.cuda import CudaFlusher, CudaStream, no_cuda
from latbench.render.onnx import ELEMENT_TYPES, OUTPUT, render_onnx_apart
from latbench.render.parameters import random_input, random_parameters

_CUDA_PROVIDER = "CUDAExecutionProvider"
_ERROR_ONLY = 3  # ONNX Runtime's severity: say nothing below errors


class OnnxRuntimeSession(Session):
    """A session with input and output bound to memory once, so that a call is only the call."""

    def __init__(self, session: ort.InferenceSession, image: np.ndarray) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._binding.bind_cpu_input(INPUT, image)
        shape = session.get_outputs()[0].shape
        self._output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
        self._binding.bind_ortvalue_output(OUTPUT, self._output)

    def call(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def output(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._output.numpy()
        return values

    def close(self) -> None:
        del self._binding, self._session, self._output


class OnnxRuntimeCudaSession(Session):
    """The same on a GPU: input and output lie in its memory, and its clock is read."""

    def __init__(
        self, session: ort.InferenceSession, image: np.ndarray, stream: CudaStream
    ) -> None:
        self._session, self._stream = session, stream
        self._binding = session.io_binding()
        self._image = ort.OrtValue.ortvalue_from_numpy(image, "cuda", 0)
        self._binding.bind_ortvalue_input(INPUT, self._image)
        shape = session.get_outputs()[0].shape
        self._output = ort.OrtValue.ortvalue_from_shape_and_type(shape, image.dtype, "cuda", 0)
        self._binding.bind_ortvalue_output(OUTPUT, self._output)
        self._binding.synchronize_inputs()
        self._run_options = ort.RunOptions()
        # else a run waits for the GPU, and the event after it is recorded late
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def call(self) -> None:
        self._enqueue()
        self._binding.synchronize_outputs()

    def timed_call(self) -> int:
        return self._stream.timed_ns(self._enqueue)

    def output(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._output.numpy().astype(np.float32)
        return values

    def close(self) -> None:
        del self._binding, self._session, self._image, self._output, self._stream

    def _enqueue(self) -> None:
        self._session.run_with_iobinding(self._binding, self._run_options)


@lru_cache(maxsize=8192)
def _rendered(network: Network, batch_size: int, precision: Precision) -> tuple[Graph, bytes]:
    """Graph and model of a network, a few KB: a sweep comes back to each in every pass."""
    graph = fold_norms(network_graph(network))
    model = render_onnx_apart(graph, batch_size=batch_size, precision=precision)
    return graph, model.SerializeToString()


class OnnxRuntimeProfiler(Profiler):
    """Measures under ONNX Runtime."""

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        if profile.device == "cuda":
            return no_cuda() or _no_provider()
        if profile.precision != "fp32":
            return "on the CPU, the ONNX Runtime profiler measures in fp32"
        return None

    def open(self, network: Network) -> Session:
        profile = self.profile
        graph, model = _rendered(network, profile.batch_size, profile.precision)
        element = ELEMENT_TYPES[profile.precision]
        weights = {k: v.astype(element, copy=False) for k, v in random_parameters(graph).items()}
        options = self._session_options()
        options.add_external_initializers(
            list(weights), [ort.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
        )
        image = random_input((profile.batch_size, *graph.input_shape)).astype(element, copy=False)
        try:
            if profile.device == "cpu":
                session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
                return OnnxRuntimeSession(session, image)
            stream = CudaStream()
            provider = (_CUDA_PROVIDER, self._provider_options(stream))
            session = ort.InferenceSession(model, options, providers=[provider])
            if _CUDA_PROVIDER not in session.get_providers():  # it falls back without an error
                raise RuntimeFailure(
                    "ONNX Runtime cannot load its CUDA provider, which needs CUDA and cuDNN: run "
                    "`pip install 'onnxruntime-gpu[cuda,cudnn]'`"
                )
            return OnnxRuntimeCudaSession(session, image, stream)
        except RuntimeFailure:
            raise
        except Exception as error:  # its exceptions share no base class
            raise RuntimeFailure(f"ONNX Runtime refused the network: {error}") from error

    def cache_flusher(self) -> Flush:
        return super().cache_flusher() if self.profile.device == "cpu" else CudaFlusher()

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": ort.__version__, "numpy": np.__version__}

    def _session_options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.profile.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERROR_ONLY
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        for key, value in self.profile.options.items():
            if "." in key or self.profile.device == "cpu":
                options.add_session_config_entry(key, value)
        return options

    def _provider_options(self, stream: CudaStream) -> dict[str, str]:
        own = {key: value for key, value in self.profile.options.items() if "." not in key}
        return {"use_tf32": "0", "user_compute_stream": str(stream.handle), **own}


def _no_provider() -> str | None:
    if _CUDA_PROVIDER in ort.get_available_providers():
        return None
    return (
        "this ONNX Runtime has no CUDA: run `pip uninstall onnxruntime` and `pip install "
        "onnxruntime-gpu`"
    )
