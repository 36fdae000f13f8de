"""Images packed into one LMDB file: one file instead of a million small ones.

Key ``labels`` holds all labels as little-endian int64. The key of image n is n as eight bytes,
big-endian; the value is the encoded image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import lmdb
import numpy as np

from latbench.errors import InvalidFileError

if TYPE_CHECKING:  # decoding processes import this module without torch
    from torch import Tensor

    from nas.data.stored import StoredSplit
from latbench.progress import Progress, silent

_LABELS = b"labels"
_AT_ONCE = 500  # images per transaction
_COMPARED = 1000  # images of a file that exists already
_MAP_BYTES = 1 << 40  # largest size of the file; reserves address space, not disk


# LMDB opens a file only once in a process, so all stores of a file share its environment
_opened: WeakValueDictionary[tuple[int, int], lmdb.Environment] = WeakValueDictionary()
_opening = Lock()
# a lock that another thread holds during a fork would never be released in the child
os.register_at_fork(
    before=_opening.acquire,
    after_in_parent=_opening.release,
    after_in_child=_opening.release,
)


class LmdbStore:
    """The images of a packed file, which may be open in other stores as well.

    Raises:
        InvalidFileError: The file is missing, damaged or not a packed file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._environment = _environment(path)
            with self._environment.begin() as transaction:
                raw = transaction.get(_LABELS)
        except (OSError, lmdb.Error) as error:
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


def _environment(path: Path) -> lmdb.Environment:
    """The environment of a file, under whatever path it was opened.

    It closes with its last store. A forked process reads through the environments of its parent,
    which is safe because they are read only and lock nothing.

    Raises:
        OSError, lmdb.Error: The file is missing or damaged.
    """
    with _opening:
        status = path.stat()
        file = (status.st_dev, status.st_ino)
        found = _opened.get(file)
        if found is None:
            found = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
            _opened[file] = found
        return found


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


def holds(path: Path, source: StoredSplit) -> bool:
    """Whether a packed file holds the images of a split: all labels, and some images, are equal.

    Raises:
        InvalidFileError: The file is damaged or not a packed file.
    """
    packed = LmdbStore(path)
    if not np.array_equal(packed.labels.numpy(), source.labels.numpy()):
        return False
    count = len(source)
    compared = np.linspace(0, count - 1, min(count, _COMPARED)).astype(int).tolist()
    return all(packed.read(i) == source.store.read(int(source.numbers[i])) for i in compared)


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")
