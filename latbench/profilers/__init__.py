"""Runtimes that can be measured. A new one needs one file here and one line in ``PROFILERS``."""

from __future__ import annotations

from latbench.blocks import Network
from latbench.blocks.segment import Segment
from latbench.device import IMPORTED, DeviceProfile
from latbench.device_files import of_table
from latbench.errors import RuntimeFailure
from latbench.models.joining import join
from latbench.models.onnx_model import OnnxModel
from latbench.profilers.base import CacheFlusher, Flush, Profiler, Session
from latbench.profilers.remote import RemoteProfiler
from latbench.registry import Registry

PROFILERS: Registry[type[Profiler]] = Registry(
    "runtime",
    {
        "onnxruntime": "latbench.profilers.onnxruntime:OnnxRuntimeProfiler",
        "openvino": "latbench.profilers.openvino:OpenvinoProfiler",
        "pytorch": "latbench.profilers.pytorch:PytorchProfiler",
        "tensorrt": "latbench.profilers.tensorrt:TensorrtProfiler",
    },
    group="latbench.runtimes",
)


def make_profiler(profile: DeviceProfile) -> Profiler:
    """The profiler of a device profile.

    Raises:
        UnknownNameError: No such runtime exists.
        RuntimeFailure: The profile cannot run here; the message gives the reason.
    """
    if profile.runtime == IMPORTED:
        raise RuntimeFailure(
            f"{profile.name} is the device of an imported table: nothing can be measured on it"
        )
    family = PROFILERS[profile.runtime]
    if profile.host is not None:
        return RemoteProfiler(profile)
    reason = family.unavailable(profile)
    if reason is not None:
        raise RuntimeFailure(f"{profile.name} cannot run here: {reason}")
    return family(profile)


def open_session(profiler: Profiler, network: Network | OnnxModel) -> Session:
    """Load a network of blocks or of segments, or an ONNX model.

    Raises:
        RuntimeFailure: The runtime refused it.
    """
    if isinstance(network, OnnxModel):
        return profiler.open_model(network)
    segments = [spec for spec in network if isinstance(spec, Segment)]
    return profiler.open_model(join(segments)) if segments else profiler.open(network)


def profiler_of_table(device: DeviceProfile) -> Profiler:
    """A profiler for the device of a table, which may come from somebody else (``of_table``).

    Raises:
        InvalidValueError: The device is reached by a command that is not the user's own.
    """
    return make_profiler(of_table(device))


__all__ = [
    "PROFILERS",
    "CacheFlusher",
    "Flush",
    "Profiler",
    "Session",
    "make_profiler",
    "open_session",
    "profiler_of_table",
]
