"""Disk cache for results that take long to build: TensorRT's engines and kernel timings.

A file starts with the digest of its content. A truncated or damaged file is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from latbench.files import write_atomically

_DIGEST_BYTES = sha256().digest_size


class BuiltFiles:
    """Folder of cached files, found by keys.

    Args:
        folder: Folder of the files; it is created when the first file is written.
        made_by: Versions, device and options that the files depend on. Files that were built with
            others are never read.
    """

    def __init__(self, folder: Path, made_by: Iterable[str]) -> None:
        self._folder = folder
        self._made_by = "\n".join(made_by).encode()

    def key(self, *sources: bytes) -> str:
        """Key of the file that is built from these sources."""
        digest = sha256(self._made_by)
        for source in sources:
            digest.update(len(source).to_bytes(8, "little") + source)
        return digest.hexdigest()

    def read(self, key: str) -> bytes | None:
        """Content stored under a key; None if there is none or the file is damaged."""
        try:
            raw = self._path(key).read_bytes()
        except OSError:
            return None
        digest, content = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        return content if sha256(content).digest() == digest else None

    def keep(self, key: str, content: bytes) -> None:
        """Store content under a key.

        Raises:
            InvalidFileError: The file cannot be written.
        """
        write_atomically(self._path(key), sha256(content).digest() + content)

    def note(self, key: str, text: str) -> None:
        """Write a readable note beside the file of a key.

        Raises:
            InvalidFileError: The file cannot be written.
        """
        write_atomically(self._folder / f"{key}.json", text.encode())

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.bin"
