"""OpenVINO on the CPU.

Options: every key of ``[options]`` is a property of OpenVINO's CPU plugin, such as
``ENABLE_CPU_PINNING``; it goes before what is set here.

Images and maps go in and come out channels last, which is how the plugin computes: a block with
channels first would pay for a change of layout that it does not meet inside a network.

Compiling is the slow part of opening a network. The compiled network is therefore exported, kept in
memory and imported at later visits. An import creates memory and kernels anew, as compiling does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network, network_graph
from latbench.device import DeviceProfile
from latbench.environment import memory_bytes
from latbench.errors import RuntimeFailure, in_one_line
from latbench.models.onnx_model import OnnxModel
from latbench.profilers.base import Profiler, Session, missing_package
from latbench.render.onnx import render_onnx
from latbench.render.parameters import random_input

if TYPE_CHECKING:
    import openvino

_DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"
_SHARE_KEPT = 8  # at most this part of the machine's memory holds compiled networks
_TO_CHANNELS_LAST, _TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class OpenvinoSession(Session):
    """A request whose inputs are bound once, so that a call does nothing else.

    Args:
        compiled: Compiled network.
        inputs: Values of the inputs in the network's order.
        channels_last: Whether a map comes out channels last.
    """

    def __init__(
        self,
        compiled: openvino.CompiledModel,
        inputs: Sequence[NDArray[Any]],
        *,
        channels_last: bool = True,
    ) -> None:
        import openvino

        self._compiled, self._channels_last = compiled, channels_last
        self._request = compiled.create_infer_request()
        for index, values in enumerate(inputs):  # copies, which the request owns
            self._request.set_input_tensor(index, openvino.Tensor(values))

    def call(self) -> None:
        try:
            self._request.infer(share_outputs=True)  # or the output would be copied
        except RuntimeError as error:
            raise _refused(error) from error

    def output(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._request.get_output_tensor(0).data.copy()
        if self._channels_last and values.ndim == 4:
            return values.transpose(_TO_CHANNELS_FIRST)
        return values

    def close(self) -> None:
        del self._request, self._compiled


class OpenvinoProfiler(Profiler):
    """Measures under OpenVINO."""

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        self._properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": profile.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # else bf16 where the processor has it
            "CPU_DENORMALS_OPTIMIZATION": True,
            **profile.options,
        }
        self._compiled: dict[Network | str, bytes] = {}
        self._room_bytes = memory_bytes() // _SHARE_KEPT

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        if profile.device != "cpu" or profile.precision != "fp32":
            return "the OpenVINO profiler measures cpu in fp32"
        return missing_package("openvino", "OpenVINO", "openvino")

    def open(self, network: Network) -> Session:
        try:
            compiled = self._kept(network) or self._compile(
                network, _channels_last(_rendered(network, self.profile.batch_size))
            )
            batch_size, height, width, channels = compiled.inputs[0].shape
            image = random_input((batch_size, channels, height, width))
            image = np.ascontiguousarray(image.transpose(_TO_CHANNELS_LAST))
            return OpenvinoSession(compiled, [image])
        except RuntimeError as error:
            raise _refused(error) from error

    def open_model(self, model: OnnxModel) -> Session:
        try:
            compiled = self._kept(model.digest) or self._compile(model.digest, _read(model))
            values = model.random_inputs()
            inputs = [values[next(iter(port.names & values.keys()))] for port in compiled.inputs]
            return OpenvinoSession(compiled, inputs, channels_last=False)
        except RuntimeError as error:
            raise _refused(error) from error

    def versions(self) -> dict[str, str]:
        return {"openvino": _imported().__version__, "numpy": np.__version__}

    def _kept(self, key: Network | str) -> openvino.CompiledModel | None:
        kept = self._compiled.get(key)
        return None if kept is None else _core().import_model(kept, _DEVICE, self._properties)

    def _compile(self, key: Network | str, model: openvino.Model) -> openvino.CompiledModel:
        compiled = _core().compile_model(model, _DEVICE, self._properties)
        exported: bytes = compiled.export_model().getvalue()
        if len(exported) <= self._room_bytes:
            self._room_bytes -= len(exported)
            self._compiled[key] = exported
        return compiled


@lru_cache(maxsize=1)
def _core() -> openvino.Core:
    """The only core of the process, because every core loads the plugins again."""
    core: openvino.Core = _imported().Core()
    return core


def _imported() -> ModuleType:
    """OpenVINO's module, imported without its telemetry.

    That reports the import from a forked process, which would run beside the first measurements.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    before = modules.get(_TELEMETRY)
    modules[_TELEMETRY] = None  # an import of it fails, and OpenVINO goes on without it
    try:
        return import_module("openvino")
    finally:
        del modules[_TELEMETRY]
        if before is not None:
            modules[_TELEMETRY] = before


def _rendered(network: Network, batch_size: int) -> bytes:
    model: bytes = render_onnx(network_graph(network), batch_size=batch_size).SerializeToString()
    return model


def _read(model: OnnxModel) -> openvino.Model:
    whole = model.whole()
    if whole is not None:
        return _core().read_model(whole)
    if not model.path.is_file():
        raise RuntimeFailure(
            f"{model.name} has weights of more than 2 GiB, which OpenVINO reads from a file only: "
            "export it and give the file"
        )
    read = _core().read_model(model.path)  # weights of more than 2 GiB stay in their files
    read.reshape({each.name: each.shape for each in model.inputs})
    return read


def _channels_last(onnx_model: bytes) -> openvino.Model:
    """The model with its input, and its output where that is a map, channels last."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    model = _core().read_model(onnx_model)
    steps = PrePostProcessor(model)
    ends = [(steps.input(), model.input()), (steps.output(), model.output())]
    for end, tensor in ends:
        if len(tensor.shape) == 4:
            end.tensor().set_layout(Layout("NHWC"))
            end.model().set_layout(Layout("NCHW"))
    return steps.build()


def _refused(error: RuntimeError) -> RuntimeFailure:
    """OpenVINO's message is a trace of several lines."""
    return RuntimeFailure(f"OpenVINO refused the network: {in_one_line(error)}")
