"""Where encoded images lie; read by number.

Knows no torch, and a store can be pickled: processes that decode images (``nas.data.decoding``)
import this module and get stores sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """Encoded images by number."""

    def name(self, number: int) -> str:
        """What an error calls an image."""

    def read(self, number: int) -> bytes:
        """The image as it was encoded.

        Raises:
            OSError, ValueError: It is missing.
        """

    def part(self, numbers: Iterable[int]) -> Store:
        """A store that has these images under the same numbers, small to send.

        One that is small itself returns itself.
        """


@dataclass(frozen=True)
class FileStore:
    """One file an image, relative to a folder.

    Attributes:
        root: The folder.
        paths: Of all images, or by the numbers of some.
    """

    root: Path
    paths: Sequence[str] | Mapping[int, str]

    def name(self, number: int) -> str:
        return str(self.root / self.paths[number])

    def read(self, number: int) -> bytes:
        return (self.root / self.paths[number]).read_bytes()

    def part(self, numbers: Iterable[int]) -> FileStore:
        return FileStore(self.root, {number: self.paths[number] for number in numbers})
