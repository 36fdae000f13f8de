"""What takes long to build, kept on disk: TensorRT's engines and its timings of kernels.

A file holds the digest of its content before the content: one that was cut short or damaged is
as good as none.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from latbench.files import write_atomically

_DIGEST_BYTES = sha256().digest_size


class BuiltFiles:
    """A folder of built things, by keys.

    Args:
        folder: Made when the first file is written.
        made_by: Versions, device and options: what is built under others is never read.
    """

    def __init__(self, folder: Path, made_by: Iterable[str]) -> None:
        self._folder = folder
        self._made_by = "\n".join(made_by).encode()

    def key(self, *sources: bytes) -> str:
        """The key of what is built from these sources."""
        digest = sha256(self._made_by)
        for source in sources:
            digest.update(len(source).to_bytes(8, "little") + source)
        return digest.hexdigest()

    def read(self, key: str) -> bytes | None:
        """What was kept under a key; None if there is nothing, or nothing whole."""
        try:
            raw = self._path(key).read_bytes()
        except OSError:
            return None
        digest, content = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        return content if sha256(content).digest() == digest else None

    def keep(self, key: str, content: bytes) -> None:
        """Keep something under a key.

        Raises:
            InvalidFileError: The file cannot be written.
        """
        write_atomically(self._path(key), sha256(content).digest() + content)

    def note(self, key: str, text: str) -> None:
        """Write something for people beside what is kept under a key.

        Raises:
            InvalidFileError: The file cannot be written.
        """
        write_atomically(self._folder / f"{key}.json", text.encode())

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.bin"
