"""List of the devices that can run here; call of the noise check of one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from latbench.device_files import AnyDevice, as_device, load_device, own_profiles, shipped_profiles
from latbench.errors import InvalidFileError, LatbenchError
from latbench.measure.lock import held
from latbench.measure.noise import NoiseCheck, check_noise
from latbench.profilers import PROFILERS, make_profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.units import as_duration_s


@dataclass(frozen=True, repr=False)
class DeviceStatus(Result):
    """A device profile, and whether it can run here.

    Of an own profile that cannot be read only the name and the reason are known.

    Attributes:
        name: Name of the profile.
        runtime: Inference runtime.
        device: Hardware that the runtime computes on, ``cpu`` or ``cuda``.
        batch_size: Number of images a call.
        precision: Precision of weights and activations, ``fp32`` or ``fp16``.
        threads: Number of threads of one call.
        available: Whether the profile can run here.
        reason: Reason why it cannot run here; None if it can, or if the device is elsewhere.
        host: Where the device is; None if it is this machine.
    """

    name: str
    available: bool
    reason: str | None
    runtime: str | None = None
    device: str | None = None
    batch_size: int | None = None
    precision: str | None = None
    threads: int | None = None
    host: str | None = None


@dataclass(frozen=True, repr=False)
class DeviceCheck(Result):
    """Present noise of a device.

    Attributes:
        name: Name of the device profile.
        runtime: Inference runtime.
        noise: Result of the noise check.
    """

    name: str
    runtime: str
    noise: NoiseCheck

    @property
    def tolerance(self) -> float:
        """Smallest relative error of a network's latency that can be detected now, a fraction."""
        return self.noise.tolerance

    def as_dict(self) -> dict[str, Any]:
        """The device and its noise as plain JSON values."""
        about = {"name": self.name, "runtime": self.runtime, "available": True, "reason": None}
        return about | asdict(self.noise)


def list_devices() -> list[DeviceStatus]:
    """List the shipped device profiles and the user's own, and whether they can run here."""
    return [_status(name) for name in dict.fromkeys([*shipped_profiles(), *own_profiles()])]


def _status(name: str) -> DeviceStatus:
    try:
        profile = load_device(name)
    except InvalidFileError as error:
        return DeviceStatus(name, available=False, reason=error.message)
    try:
        # a device elsewhere is not contacted for a list
        reason = PROFILERS[profile.runtime].unavailable(profile) if profile.host is None else None
    except LatbenchError as error:
        reason = error.message
    return DeviceStatus(
        profile.name,
        reason is None,
        reason,
        profile.runtime,
        profile.device,
        profile.batch_size,
        profile.precision,
        profile.threads,
        None if profile.host is None else str(profile.host),
    )


def check_device(
    device: AnyDevice,
    *,
    duration: str | float = "60s",
    progress: Progress = silent,
) -> DeviceCheck:
    """Measure the noise and the drift of a device.

    Args:
        device: A device profile, its name or its path.
        duration: Duration of the check, as text such as ``"60s"`` or in seconds.
        progress: Callback that reports the progress.

    Raises:
        UnknownNameError: No such device profile exists.
        MissingExtraError: Its runtime is not installed.
        DeviceBusyError: Another process measures on the device.
    """
    profiler = make_profiler(as_device(device))
    seconds = as_duration_s(duration)
    with (
        Phases(progress, [Phase("measure", seconds=seconds, steady=True)]) as phases,
        held(profiler),
    ):
        phases["measure"](0.0, "preparing")
        environment = profiler.environment()
        noise = check_noise(profiler, environment, seconds=seconds, progress=phases["measure"])
    return DeviceCheck(profiler.profile.name, profiler.profile.runtime, noise)
