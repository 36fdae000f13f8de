"""Stores of encoded images, which are read by number.

This module does not import torch, and a store can be pickled: decoding processes
(``nas.data.decoding``) import this module and receive stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """Encoded images by number."""

    def name(self, number: int) -> str:
        """Name of an image in error messages."""

    def read(self, number: int) -> bytes:
        """The encoded image.

        Raises:
            OSError, ValueError: The image is missing.
        """

    def part(self, numbers: Iterable[int]) -> Store:
        """A small store with these images under the same numbers, to send to a process.

        A store that is small itself returns itself.
        """


@dataclass(frozen=True)
class FileStore:
    """One file per image, relative to a folder.

    Attributes:
        root: Folder of the images.
        paths: Paths of all images, or of some images by number.
    """

    root: Path
    paths: Sequence[str] | Mapping[int, str]

    def name(self, number: int) -> str:
        return str(self.root / self.paths[number])

    def read(self, number: int) -> bytes:
        return (self.root / self.paths[number]).read_bytes()

    def part(self, numbers: Iterable[int]) -> FileStore:
        return FileStore(self.root, {number: self.paths[number] for number in numbers})
