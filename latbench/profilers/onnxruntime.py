"""ONNX Runtime on the CPU.

Options: every key of ``[options]`` is a session configuration entry of ONNX Runtime, such as
``session.intra_op.allow_spinning``. Denormals are flushed to zero in every session.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from latbench.blocks import Network, network_graph
from latbench.device import DeviceProfile
from latbench.errors import RuntimeFailure
from latbench.profilers.base import Profiler, Session
from latbench.render.onnx import OUTPUT, render_onnx

_PROVIDERS = ["CPUExecutionProvider"]
_ERROR_ONLY = 3  # ONNX Runtime's severity: say nothing below errors


class OnnxRuntimeSession(Session):
    """A session with input and output bound to memory once, so that a call is only the call."""

    def __init__(self, session: ort.InferenceSession, image: np.ndarray) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._binding.bind_cpu_input("input", image)
        shape = session.get_outputs()[0].shape
        self._output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
        self._binding.bind_ortvalue_output(OUTPUT, self._output)

    def call(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def close(self) -> None:
        del self._binding, self._session, self._output


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
        graph = network_graph(network)
        model = render_onnx(graph, batch_size=self.profile.batch_size)
        image = np.random.default_rng(0).standard_normal(
            (self.profile.batch_size, *graph.input_shape), dtype=np.float32
        )
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=_PROVIDERS)
        except Exception as error:  # its exceptions share no base class
            raise RuntimeFailure(f"ONNX Runtime refused the network: {error}") from error
        return OnnxRuntimeSession(session, image)

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": ort.__version__, "numpy": np.__version__}
