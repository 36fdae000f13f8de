"""Profiling of several devices at once, each into a table of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from latbench.device import DeviceProfile
from latbench.device_files import AnyDevice, as_device
from latbench.errors import InvalidValueError, LatbenchError, in_one_line
from latbench.profilers.remote import RemoteProfiler
from latbench.progress import Progress, silent
from latbench.result import Result
from latbench.workflows.added_device import require_name
from latbench.workflows.profiling import ProfileResult
from nas.workflows.inputs import AnySpace, OwnModel, Shapes, as_profiler, repeated
from nas.workflows.space_profiling import TIME_LIMIT, fill

_INTERRUPTED = "interrupted before it had prices"


@dataclass(frozen=True, repr=False)
class ProfiledDevice(Result):
    """What became of one of several devices.

    Attributes:
        device: Name of the device profile.
        table: Path of its table, which is there if at least one pass was finished.
        result: Result of the profiling; None if it failed.
        error: Reason why it failed; None if it did not.
    """

    device: str
    table: Path
    result: ProfileResult | None
    error: str | None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        if self.result is None:
            return self.error == _INTERRUPTED
        return self.result.interrupted

    def as_dict(self) -> dict[str, Any]:
        """Device, table, and the result or the error as plain JSON values."""
        about = {"device": self.device, "table": str(self.table), "error": self.error}
        return about | (self.result.as_dict() if self.result is not None else {})


# long because it describes every argument and ends every thread
def profile_devices(
    devices: Sequence[AnyDevice],
    space: AnySpace | OwnModel,
    folder: str | Path,
    *,
    shapes: Shapes | None = None,
    batch_size: int | None = None,
    time_limit: str | float = TIME_LIMIT,
    progress_of: Callable[[str], Progress] = lambda name: silent,
) -> list[ProfiledDevice]:
    """Profile several devices side by side; the failure of one leaves the others alone.

    Each device has its own thread, which waits for the device most of the time. Ctrl-C ends all of
    them like the time limit does, and the same call resumes what is not finished.

    Args:
        devices: Device profiles, their names or their paths; none is this machine, where the work
            for the others would disturb the measurement.
        space: A search space or its name; or an ONNX model, the path of its file or a torch module.
        folder: Folder of the tables, named after the devices.
        shapes: Shapes of inputs that the model's file leaves open.
        batch_size: Number of images a call; that of each device profile by default.
        time_limit: Wall time for each device.
        progress_of: Function that makes the progress callback of a device, given its name.

    Returns:
        What became of each device, in the order of the request.

    Raises:
        UnknownNameError: There is no such device profile.
        InvalidValueError: No device is given, two have one name, a name cannot name a file, or a
            device is this machine.
    """
    profiles = [as_device(device, batch_size=batch_size) for device in devices]
    _require_apart(profiles)
    stop = Event()

    def run(device: DeviceProfile) -> ProfiledDevice:
        path = Path(folder) / f"{device.name}.sqlite"
        try:
            profiler = as_profiler(device)
            assert isinstance(profiler, RemoteProfiler)
            profiler.connection.stop = stop  # ends the measuring, and the prices follow
            table = fill(
                profiler,
                space,
                path,
                shapes=shapes,
                time_limit=time_limit,
                progress=progress_of(device.name),
            )
        except (LatbenchError, OSError, sqlite3.Error) as error:
            return ProfiledDevice(device.name, path, None, in_one_line(error))
        except Exception as error:  # a fault of the program: the results of the others count
            what = f"{type(error).__name__}: {in_one_line(error)}"
            return ProfiledDevice(device.name, path, None, what)
        except KeyboardInterrupt:
            return ProfiledDevice(device.name, path, None, _INTERRUPTED)
        assert isinstance(table.result, ProfileResult), "nothing is transferred from another table"
        return ProfiledDevice(device.name, path, table.result, None)

    Path(folder).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(profiles)) as threads:
        running = [threads.submit(run, device) for device in profiles]
        try:
            wait(running)
        except KeyboardInterrupt:
            stop.set()
            wait(running)
    return [future.result() for future in running]


def _require_apart(profiles: Sequence[DeviceProfile]) -> None:
    if not profiles:
        raise InvalidValueError("no device is given: name one device profile or more")
    names = [profile.name for profile in profiles]
    for name in names:
        require_name(name)
    twice = repeated(names)
    if twice:
        raise InvalidValueError(
            f"{', '.join(twice)} is given twice: tables are named after devices"
        )
    here = [profile.name for profile in profiles if profile.host is None]
    if here:
        raise InvalidValueError(
            f"{', '.join(here)} measures on this machine, where the work for the others would "
            "disturb it: profile it alone"
        )
