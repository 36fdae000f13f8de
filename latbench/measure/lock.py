"""Lock that allows one measuring process per device, because two would disturb each other.

The lock is a file in the system's temporary directory, or in the folder that the environment
variable ``LATBENCH_LOCKS`` names, for processes that do not disturb each other, such as tests. The
kernel releases the lock when the process ends, even after a crash. The file names the process that
holds the lock.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latbench.errors import DeviceBusyError, InvalidFileError
from latbench.files import utf8
from latbench.profilers import Profiler
from latbench.profilers.remote import RemoteProfiler

FOLDER_VARIABLE = "LATBENCH_LOCKS"
# the folder does not depend on the user or on TMPDIR, so that all processes share one lock
_SHARED = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


@contextmanager
def held(profiler: Profiler) -> Iterator[None]:
    """Hold the device of a profiler, here or elsewhere, for the duration of the block.

    What sessions change of this process is restored at the end.

    Raises:
        DeviceBusyError: Another process holds it; the message names the process.
    """
    if isinstance(profiler, RemoteProfiler):
        with profiler.held():
            yield
        return
    with device_lock(profiler.profile.device), profiler.settings():
        yield


@contextmanager
def device_lock(device: str, *, holder: str | None = None) -> Iterator[None]:
    """Hold the device, such as ``cpu`` or ``cuda``, for the duration of the block.

    Args:
        device: Device of this machine.
        holder: Name of the holder for others; this process if omitted.

    Raises:
        DeviceBusyError: Another process holds the lock; the message names the process.
        InvalidFileError: Another user's file of the lock cannot be read.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE) or _SHARED)
    path = folder / f"latbench-{device}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user made the file: it can still be locked
        descriptor = _open_to_read(path)
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, 0o666)  # whatever the umask: other users lock the same file
    writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    mode = "r+" if writable else "r"
    with os.fdopen(descriptor, mode, encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = file.read().strip() or "another process"
            raise DeviceBusyError(
                f"{device} is being measured by {other}: wait until it has finished, "
                "two measurements at once would disturb each other"
            ) from None
        if writable:
            file.truncate(0)
            own = f"process {os.getpid()} ({utf8(' '.join(sys.argv))[:200]})"
            file.write(f"{own if holder is None else holder}\n")
            file.flush()
        try:
            yield
        finally:
            if writable:
                file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile would keep the lock


def _open_to_read(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except PermissionError as error:
        raise InvalidFileError(
            f"{path} locks the device for all users, and another one made it for itself alone: "
            "have it deleted, or made readable (chmod a+r)"
        ) from error
