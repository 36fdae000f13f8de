"""Images packed into one LMDB file: one file instead of a million small ones.

Key ``labels`` holds all labels as little-endian int64. The key of image n is n as eight bytes,
big-endian; the value is the encoded image.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import numpy as np

from latbench.errors import InvalidFileError

if TYPE_CHECKING:  # decoding processes import this module without torch
    from torch import Tensor

    from nas.data.stored import StoredSplit
from latbench.progress import Progress, silent

_LABELS = b"labels"
_AT_ONCE = 500  # images per transaction
_MAP_BYTES = 1 << 40  # largest size of the file; reserves address space, not disk


class LmdbStore:
    """The images of a packed file.

    Raises:
        InvalidFileError: The file is missing, damaged or not a packed file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._environment = lmdb.open(
                str(path), subdir=False, readonly=True, lock=False, readahead=False
            )
            with self._environment.begin() as transaction:
                raw = transaction.get(_LABELS)
        except lmdb.Error as error:
            raise InvalidFileError(
                f"cannot read {path}: {error}; make it again with `latbench pack`"
            ) from error
        if raw is None:
            raise InvalidFileError(f"{path} holds no packed images: make it with `latbench pack`")
        self._labels = np.frombuffer(raw, dtype="<i8").astype(np.int64)

    def __reduce__(self) -> tuple[type[LmdbStore], tuple[Path]]:
        return LmdbStore, (self.path,)

    @property
    def labels(self) -> Tensor:
        """int64 ``(N,)``, from 0."""
        import torch

        return torch.from_numpy(self._labels)

    def name(self, number: int) -> str:
        return f"image {number} of {self.path}"

    def read(self, number: int) -> bytes:
        with self._environment.begin() as transaction:
            raw = transaction.get(_key(number))
        if raw is None:
            raise ValueError("it is not in the file")
        return bytes(raw)

    def part(self, numbers: Iterable[int]) -> LmdbStore:
        return self  # another process can open the same file


def pack(
    source: StoredSplit,
    path: Path,
    *,
    progress: Progress = silent,
) -> None:
    """Write the images of a split and their labels into a temporary file, then rename it.

    Raises:
        InvalidFileError: An image cannot be read, or the file exists or cannot be written; an
            existing file is not changed.
    """
    if path.exists():
        raise InvalidFileError(f"{path} exists: choose another output, or remove it")
    part = path.with_name(f".{path.name}.part")
    count = len(source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with lmdb.open(str(part), subdir=False, lock=False, map_size=_MAP_BYTES) as environment:
            for begin in range(0, count, _AT_ONCE):
                with environment.begin(write=True) as transaction:
                    for i in range(begin, min(begin + _AT_ONCE, count)):
                        transaction.put(_key(i), source.store.read(int(source.numbers[i])))
                progress(min(begin + _AT_ONCE, count) / count, f"{count} images")
            with environment.begin(write=True) as transaction:
                transaction.put(_LABELS, source.labels.numpy().astype("<i8").tobytes())
        part.replace(path)
    except (OSError, lmdb.Error) as error:
        part.unlink(missing_ok=True)
        raise InvalidFileError(f"cannot pack {path}: {error}") from error


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")
