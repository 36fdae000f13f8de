"""Device profiles: TOML files that name a device, a runtime and a measuring protocol.

A profile is found by its name among the shipped ones (``device_profiles``), or by its path.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from latbench.errors import InvalidFileError, UnknownNameError, offence
from latbench.files import decode_text, is_hidden, read_text

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=10_000)]
Precision = Literal["fp32", "fp16"]
Clock = Literal["gpu", "host"]

_PACKAGE = "device_profiles"
_WHAT = "a device profile, TOML with at least name and runtime"
IMPORTED = "imported"
"""Runtime of imported tables, which another program measured. Nothing can be run on it."""


class SweepProtocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for visits and for the end of a sweep (the ``[sweep]`` section).

    With the default values, sums of block prices agreed with the latencies of whole networks on
    shared machines; see docs/measurement.md.

    Attributes:
        warmup_calls: Minimum number of untimed calls at the start of a visit.
        hot_calls: Minimum number of timed calls that directly follow each other.
        cold_calls: Number of timed calls that each follow the writing of a buffer of the L2 cache's
            size.
        block_dwell_ms: Duration of the hot calls to a block.
        network_dwell_ms: Duration of the hot calls to a network. It is longer than for a block,
            because a network needs several calls to load its weights into the shared cache, and one
            call without disturbance.
        min_passes: Minimum number of passes of a sweep. With fewer, an interval means nothing.
        max_passes: Maximum number of passes of a sweep.
        quantile: Quantile over visits of the fastest call of a visit. It is low because other
            programs on a shared machine can only add time.
        block_tolerance: Relative half width of the 95 % interval below which the estimate of a
            block counts as converged.
        network_tolerance: The same limit for the summed latency of the calibration networks.
        floor_tolerance: Split-half noise of the calibration networks above which the whole sweep
            counts as noisy.
        networks: Number of calibration networks in every pass. A resumed table keeps its networks;
            new ones are added if it has fewer.
        network_visits: Number of visits to each calibration network in a pass.
        verify_visits: Number of visits to each network of a verification.
        least_clock: Fraction of a GPU's highest clock below which a visit does not count. Lower
            this value if the clock is locked on purpose.
        warmup_ms: Minimum duration of the untimed calls, because an idle GPU lowers its clock.
        scan_passes: Number of passes over the widths of the scan for alignment classes.
    """

    warmup_calls: Count = 2
    hot_calls: Count = 3
    cold_calls: Count = 3
    block_dwell_ms: Milliseconds = 0.5
    network_dwell_ms: Milliseconds = 30.0
    min_passes: Count = 20
    max_passes: Count = 60
    quantile: Fraction = 0.05
    block_tolerance: Fraction = 0.02
    network_tolerance: Fraction = 0.01
    floor_tolerance: Fraction = 0.03
    networks: Annotated[int, msgspec.Meta(ge=6, le=1000)] = 16
    network_visits: Count = 3
    verify_visits: Count = 60
    least_clock: Fraction = 0.75  # the default limit of NVBench
    warmup_ms: Milliseconds = 0.0
    scan_passes: Count = 8  # enough to find a class three times as slow, and steps of a few percent


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device and the runtime on it.

    Attributes:
        name: Name of the device in tables.
        runtime: Inference runtime, a name in ``latbench.profilers.PROFILERS``.
        device: Hardware that the runtime computes on.
        batch_size: Number of images a call. Latencies are those of the whole batch.
        precision: Precision of weights and activations.
        threads: Number of threads of one call.
        options: Options that are passed to the runtime unchanged. The module of each profiler lists
            those it accepts.
        sweep: Measuring protocol.
        clock: Definition of a latency on CUDA. ``gpu`` (the default) is the time of the GPU's work
            for a call, without gaps between launches. ``host`` is the time from the call until
            its result is available.
    """

    name: str
    runtime: str
    device: Literal["cpu", "cuda"] = "cpu"
    batch_size: Count = 1
    precision: Precision = "fp32"
    threads: Count = 1
    options: dict[str, str] = msgspec.field(default_factory=dict)
    sweep: SweepProtocol = msgspec.field(default_factory=SweepProtocol)
    clock: Clock | None = None

    def __post_init__(self) -> None:
        if self.device == "cpu" and self.clock is not None:
            raise ValueError("clock is for device cuda: leave it out")

    def same_device(self, other: DeviceProfile) -> bool:
        """Whether latencies of two profiles can be compared: only their protocols may differ."""
        return self == msgspec.structs.replace(other, sweep=self.sweep)


AnyDevice = DeviceProfile | str | Path
"""A device profile, its shipped name, or the path of its file."""


def as_device(device: AnyDevice, *, batch_size: int | None = None) -> DeviceProfile:
    """A device profile; it is read if its name or path is given.

    Args:
        device: The profile, its name or its path.
        batch_size: Number of images a call, instead of the profile's.

    Raises:
        UnknownNameError: There is no such device profile.
        InvalidFileError: The file is not a device profile.
    """
    profile = device if isinstance(device, DeviceProfile) else load_device(device)
    if batch_size is None:
        return profile
    return msgspec.structs.replace(profile, batch_size=batch_size)


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    names = (file.name for file in resources.files(_PACKAGE).iterdir())
    return sorted(
        name.removesuffix(".toml")
        for name in names
        if name.endswith(".toml") and not is_hidden(name)
    )


def load_device(name_or_path: str | Path) -> DeviceProfile:
    """Read a device profile by shipped name, such as ``"cpu-onnxruntime"``, or by path.

    Raises:
        UnknownNameError: The argument is neither the name of a shipped profile nor a file.
        InvalidFileError: The file is not a device profile.
    """
    path = Path(name_or_path)
    shipped = shipped_profiles()
    name = str(name_or_path)
    if name in shipped:
        raw = resources.files(_PACKAGE).joinpath(f"{name}.toml").read_bytes()
        text = decode_text(raw, source=name, what=_WHAT)
    elif path.exists():
        text = read_text(path, what=_WHAT)
    else:
        raise UnknownNameError("device profile", name, shipped)
    try:
        return msgspec.toml.decode(text, type=DeviceProfile)
    except msgspec.DecodeError as error:
        raise InvalidFileError(
            f"{name_or_path} is not a device profile: {error}", path=offence(str(error))
        ) from error
