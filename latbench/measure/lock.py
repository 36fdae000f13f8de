"""Lock that allows one measuring process per device, because two would disturb each other.

The lock is a file in the system's temporary directory. The kernel releases the lock when the
process ends, even after a crash. The file names the process that holds the lock.
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

# the folder does not depend on the user or on TMPDIR, so that all processes share one lock
LOCK_FOLDER = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """Hold the device, such as ``cpu`` or ``cuda``, for the duration of the block.

    Raises:
        DeviceBusyError: Another process holds the lock; the message names the process.
    """
    path = LOCK_FOLDER / f"latbench-{device}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user made the file: it can still be locked
        descriptor = os.open(path, os.O_RDONLY)
    writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    with os.fdopen(descriptor, "r+" if writable else "r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            raise DeviceBusyError(
                f"{device} is being measured by {holder}: wait until it has finished, "
                "two measurements at once would disturb each other"
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
