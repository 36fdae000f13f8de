"""Adding a device elsewhere: the line to it is tried, and its profile is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from latbench.conditions import Conditions
from latbench.device import DeviceProfile, Host
from latbench.device_files import (
    load_device,
    own_folder,
    own_profiles,
    shipped_profiles,
    write_device,
)
from latbench.environment import Environment
from latbench.errors import InvalidValueError
from latbench.measure.lock import held
from latbench.measure.noise import governor_advice
from latbench.profilers.remote import RemoteProfiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_LEAST_FREE_MIB = 400  # what a runtime and a network of some ten MB take
_HOT_C = 70.0  # boards throttle at 80 to 85


@dataclass(frozen=True, repr=False)
class AddedDevice(Result):
    """A device elsewhere that can be measured.

    Attributes:
        name: Name of its profile.
        path: File of its profile.
        environment: State of the machine and the software there.
        conditions: Temperature, clock and free memory there.
        advice: Suggested changes to the device.
    """

    name: str
    path: Path
    environment: Environment
    conditions: Conditions
    advice: tuple[str, ...]


def add_device(
    name: str,
    host: Host,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> AddedDevice:
    """Reach a device, look at its state, and write its profile to the user's own profiles.

    A profile of the same name keeps what is not given here, such as its batch size.

    Args:
        name: Name of the device in tables.
        host: Where it is.
        runtime: Inference runtime there; by default that of the present profile, or
            ``onnxruntime``.
        threads: Number of threads of one call; by default those of the present profile, or 1.
        progress: Callback that reports the progress.

    Raises:
        InvalidValueError: The name is no name of a file, or that of a shipped profile.
        MismatchError: The device has another version of latbench.
        RuntimeFailure: The device cannot be reached, or lacks the runtime.
        DeviceBusyError: Another process measures on it.
    """
    require_name(name)
    if name in shipped_profiles():
        raise InvalidValueError(f"{name} comes with latbench: choose another name")
    given = {"runtime": runtime, "threads": threads, "host": host}
    present = load_device(name) if name in own_profiles() else DeviceProfile(name, "onnxruntime")
    profile = msgspec.structs.replace(present, **{k: v for k, v in given.items() if v is not None})
    profiler = RemoteProfiler(profile)
    try:
        with Phases(progress, [Phase("connect")]) as phases:
            phases["connect"](0.0, f"starting latbench on {host}")
            with held(profiler):
                phases["connect"](0.5, "reading its state")
                environment, conditions = profiler.environment(), profiler.conditions()
    finally:
        profiler.close()
    path = own_folder() / f"{name}.toml"
    write_device(profile, path)
    return AddedDevice(name, path, environment, conditions, tuple(_advice(environment, conditions)))


def require_name(name: str) -> None:
    """Refuse the name of a device that cannot name a file.

    Raises:
        InvalidValueError: It has other characters than a name, or too many.
    """
    if not _NAME.fullmatch(name):
        raise InvalidValueError(f"{name!r} is no name of a device: use letters, digits and . _ -")


def _advice(environment: Environment, conditions: Conditions) -> list[str]:
    advice = [*conditions.limits, *governor_advice(environment)]
    if conditions.temperature_c is not None and conditions.temperature_c > _HOT_C:
        advice.append(f"it is at {conditions.temperature_c:.0f} °C before it works: cool it")
    if conditions.free_mib is not None and conditions.free_mib < _LEAST_FREE_MIB:
        advice.append(f"only {conditions.free_mib} MiB of memory are free: stop other programs")
    return advice
