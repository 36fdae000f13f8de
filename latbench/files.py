"""Safe reading of unchecked files, and atomic writing that keeps the old file on failure.

All text is UTF-8, with or without a byte-order mark, whatever the locale of the machine.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import tempfile
from pathlib import Path

from latbench.errors import InvalidFileError

_MASK = os.umask(0)  # permissions that new files do not get; read before there are threads
os.umask(_MASK)
MAX_TEXT_BYTES = 1 << 20  # architectures, profiles and recipes take a few kilobytes

_PEEKED = 64  # bytes
_ONNX_START = b"\x08"  # tag of the first field of a model, its version of the format
_OTHER_MARKS = (
    (
        codecs.BOM_UTF32_LE,
        "UTF-32",
    ),  # checked before UTF-16, because it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_bytes(path: Path, *, what: str, limit: int) -> bytes:
    """Read a file that has not been checked.

    Pipes of the shell, such as ``<(command)``, are read. Devices and named pipes are refused,
    because they may never end.

    Args:
        path: File to read.
        what: Expected content, for messages, such as ``an architecture``.
        limit: Maximum size in bytes.

    Raises:
        InvalidFileError: The file is missing, not a file, unreadable or larger than the limit.
    """
    require_file(path, what=what)
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        reason = error.strerror
        raise InvalidFileError(f"cannot read {path}: {reason}; it should be {what}") from error
    if len(raw) > limit:
        raise InvalidFileError(f"{path} is not {what}: it is larger than {_size(limit)}")
    return raw


def require_file(path: Path, *, what: str) -> None:
    """Check that a path is a file that can be opened and read to its end.

    Raises:
        InvalidFileError: The path is missing, a directory, a device or a named pipe.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InvalidFileError(f"cannot read {path}: {reason}; it should be {what}") from error
    kind = next((words for is_kind, words in _KINDS if is_kind(mode)), None)
    anonymous = stat.S_ISFIFO(mode) and Path(os.path.realpath(path)).name.startswith("pipe:")
    if kind is not None and not anonymous:
        raise InvalidFileError(f"{path} is {kind}: it should be {what}")


_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_text(path: Path, *, what: str, limit: int = MAX_TEXT_BYTES) -> str:
    """Read a text file; see ``read_bytes`` and ``decode_text`` for arguments and errors."""
    return decode_text(read_bytes(path, what=what, limit=limit), source=str(path), what=what)


def decode_text(raw: bytes, *, source: str, what: str) -> str:
    """Decode UTF-8 and remove the byte-order mark.

    Args:
        raw: Bytes of a file.
        source: Name of the file for messages.
        what: Expected content, for messages.

    Raises:
        InvalidFileError: The bytes are text in another encoding, or not text.
    """
    other = next((name for mark, name in _OTHER_MARKS if raw.startswith(mark)), None)
    if other is None and _alternates(raw[:64]):
        other = "UTF-16"
    if other is not None:
        raise InvalidFileError(f"{source} is {other} text: save it as UTF-8")
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise InvalidFileError(
            f"{source} is not {what}: it is not UTF-8 text (byte {error.start})"
        ) from error


def _alternates(start: bytes) -> bool:
    """Whether every second byte is zero and the others are not, as for plain text in UTF-16."""
    even, odd = start[::2], start[1::2]
    return len(start) > 3 and ((not any(even) and all(odd)) or (not any(odd) and all(even)))


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def is_json_file(path: Path) -> bool:
    """Whether a file begins as a JSON object; by its name where its content says nothing."""
    start = _start(path)
    return start == b"{" or (start != _ONNX_START and path.suffix.lower() == ".json")


def is_onnx_file(path: Path) -> bool:
    """Whether a file begins as an ONNX model; by its name where its content says nothing."""
    start = _start(path)
    return start == _ONNX_START or (start != b"{" and path.suffix.lower() == ".onnx")


def _start(path: Path) -> bytes:
    """First byte of a file, spaces and byte-order mark left out; nothing is taken from pipes."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(_PEEKED).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    except OSError:
        return b""


def utf8(text: str) -> str:
    """Decode text of the command line or a file name as UTF-8, even in an ASCII locale.

    In an ASCII locale, Python represents undecodable bytes as lone surrogates, which cannot be
    written to a file.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder shows that it is not data.

    Systems put such files beside data: ``._x.jpg``, ``.DS_Store``, ``.ipynb_checkpoints``.
    """
    return name.startswith(".")


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a temporary file and rename it, so that readers see the old or the new file only.

    Raises:
        InvalidFileError: The file cannot be written; an existing file is unchanged.
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
        Path(temporary).chmod(_mode(path))
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InvalidFileError(f"cannot write {path}: {error.strerror}") from error


def appear(unfinished: Path, path: Path) -> None:
    """Move a finished file to its place, where there must be none.

    Raises:
        FileExistsError: There is a file; it is unchanged.
        OSError: The file cannot be moved.
    """
    try:
        os.link(unfinished, path)  # in one step, unlike a look and a rename
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        unfinished.rename(path)
    else:
        unfinished.unlink()


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written; nothing is made.

    Raises:
        InvalidFileError: Its folder may not be written to, or cannot be made.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():  # a folder, a device or a pipe: whoever writes knows
        return
    folder = next(each for each in path.parents if each.exists())
    if not folder.is_dir():
        raise InvalidFileError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidFileError(f"cannot write {path}: the folder {folder} may not be written to")


def _mode(path: Path) -> int:
    """Permissions of a file to be replaced; of a new one, those that the user's mask leaves."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    return 0o666 & ~_MASK


def cache_folder() -> Path:
    """Cache folder of the user; it may not exist yet. Its contents can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latbench"


def config_folder() -> Path:
    """Folder of what the user has set up; it may not exist yet."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "latbench"
