"""One measuring process a device: two would spoil each other's times.

The lock is a file in the system's temporary directory, locked by the kernel: it is free again
when its process ends, however it ends. The file names the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latbench.errors import DeviceBusyError

# the same for all users and whatever their TMPDIR, or the lock would not be device-wide
LOCK_FOLDER = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """Hold the device, such as ``cpu`` or ``cuda``, for the duration of the block.

    Raises:
        DeviceBusyError: Another process holds it; names the process.
    """
    path = LOCK_FOLDER / f"latbench-{device}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # made by another user: it can be locked all the same
        descriptor = os.open(path, os.O_RDONLY)
    writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    with os.fdopen(descriptor, "r+" if writable else "r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            raise DeviceBusyError(
                f"{device} is being measured by {holder}: wait until it has finished, "
                "two measurements would spoil each other"
            ) from None
        if writable:
            file.truncate(0)
            file.write(f"process {os.getpid()} ({' '.join(sys.argv)[:200]})\n")
            file.flush()
        try:
            yield
        finally:
            if writable:
                file.truncate(0)
