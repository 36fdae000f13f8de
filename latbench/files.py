"""Writing files so that a failed write leaves the old file whole; where to keep what can go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from latbench.errors import InvalidFileError


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write beside the target, then rename: readers see the old file or the new, never half.

    Raises:
        InvalidFileError: The file cannot be written; an old one is as it was.
    """
    raw = data.encode() if isinstance(data, str) else data
    path = path.resolve()
    temporary: str | None = None
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, such as /dev/stdout
            path.write_bytes(raw)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InvalidFileError(f"cannot write {path}: {error.strerror}") from error


def cache_folder() -> Path:
    """The user's folder for what can be made again; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "latbench"
