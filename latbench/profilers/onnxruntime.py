"""ONNX Runtime on the CPU.

Options: every key of ``[options]`` is a session configuration entry of ONNX Runtime, such as
``session.intra_op.allow_spinning``. Denormals are flushed to zero in every session.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from latbench.blocks import Network, network_graph
from latbench.blocks.graph import INPUT, Graph, fold_norms
from latbench.device import DeviceProfile
from latbench.errors import RuntimeFailure
from latbench.profilers.base import Profiler, Session
from latbench.render.onnx import OUTPUT, render_onnx_apart
from latbench.render.parameters import random_input, random_parameters

_PROVIDERS = ["CPUExecutionProvider"]
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


@lru_cache(maxsize=8192)
def _rendered(network: Network, batch_size: int) -> tuple[Graph, bytes]:
    """Graph and model of a network, a few KB: a sweep comes back to each in every pass."""
    graph = fold_norms(network_graph(network))
    return graph, render_onnx_apart(graph, batch_size=batch_size).SerializeToString()


class OnnxRuntimeProfiler(Profiler):
    """Measures under ONNX Runtime."""

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        if profile.device != "cpu" or profile.precision != "fp32":
            return "the ONNX Runtime profiler measures cpu in fp32"
        return None

    def open(self, network: Network) -> Session:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.profile.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERROR_ONLY
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        for key, value in self.profile.options.items():
            options.add_session_config_entry(key, value)
        graph, model = _rendered(network, self.profile.batch_size)
        weights = random_parameters(graph)
        options.add_external_initializers(
            list(weights), [ort.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
        )
        image = random_input((self.profile.batch_size, *graph.input_shape))
        try:
            session = ort.InferenceSession(model, options, providers=_PROVIDERS)
        except Exception as error:  # its exceptions share no base class
            raise RuntimeFailure(f"ONNX Runtime refused the network: {error}") from error
        return OnnxRuntimeSession(session, image)

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": ort.__version__, "numpy": np.__version__}
