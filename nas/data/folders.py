"""Folders of images: one per class, or lists with lines of path and label; the one of downloads.

Files and folders whose names start with a dot are ignored: systems and programs put them beside the
images (``._x.jpg``, ``.DS_Store``, ``.ipynb_checkpoints``). Files without an image's extension are
ignored too (``Thumbs.db``, ``desktop.ini``).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from latbench.errors import InvalidFileError
from latbench.files import is_hidden, read_text
from nas.data.stores import FileStore

_MAX_LIST_BYTES = 1 << 30  # the list of ImageNet's training images takes 55 MB
_LIST = "a list of images, lines of `path label`"
_LABEL_DIGITS = 9  # more classes than images
_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm")


def given_folder(data_dir: Path | None, *, what: str, layout: str) -> Path:
    """The folder of a data set that latbench does not download.

    Args:
        data_dir: The folder given on the command line.
        what: Name of the data set and its verb, such as ``faces are``.
        layout: Description of the layout that the folder must have.

    Raises:
        InvalidFileError: No folder was given, or it is not a folder.
    """
    if data_dir is None:
        raise InvalidFileError(f"{what} not downloaded: give --data-dir a folder; {layout}")
    if not data_dir.is_dir():
        raise InvalidFileError(f"{data_dir} is not a folder: {layout}")
    return data_dir


@contextmanager
def downloads() -> Iterator[Path]:
    """The folder of downloaded data sets, ``data``; one process at a time downloads into it.

    Raises:
        InvalidFileError: It cannot be made.
    """
    root = Path("data")
    try:
        root.mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidFileError(f"cannot make {root.resolve()}: {error.strerror}") from error
    try:
        lock = (root / ".lock").open("a")
    except OSError:  # may not be written to, but the data may be there already
        yield root
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of torchrun read the data all at once
        try:
            yield root
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a process forked meanwhile would keep the lock


def class_folders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted; this is the order of the classes.

    Raises:
        InvalidFileError: The folder cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    except OSError as error:
        raise InvalidFileError(f"cannot read the folder {root}: {error.strerror}") from error


def read_folders(root: Path, classes: list[str]) -> tuple[FileStore, Tensor]:
    """All images in the folders of these classes, and labels int64 ``(N,)`` from 0.

    Raises:
        InvalidFileError: A class has no images.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = images_in(root / name)
        if not found:
            raise InvalidFileError(
                f"{root / name} holds no images ({' '.join(_SUFFIXES)}): remove the folder or "
                "put its images there"
            )
        paths += [f"{name}/{file}" for file in found]
        labels += [label] * len(found)
    return FileStore(root, tuple(paths)), torch.tensor(labels, dtype=torch.int64)


def images_in(folder: Path) -> list[str]:
    """Names of the images in a folder, sorted.

    Raises:
        InvalidFileError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if _is_image(e.name) and e.is_file())
    except OSError as error:
        raise InvalidFileError(f"cannot read the folder {folder}: {error.strerror}") from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not is_hidden(name)


def read_list(file: Path, roots: Sequence[Path]) -> tuple[FileStore, Tensor]:
    """Images named by lines of ``path label``, and labels int64 ``(N,)``.

    Args:
        file: Path of the list.
        roots: Folders that paths may be relative to: the first one that holds the first image.

    Raises:
        InvalidFileError: A line has another form, or the first image is in none of the folders.
    """
    lines = read_text(file, what=_LIST, limit=_MAX_LIST_BYTES).splitlines()
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        path, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not path or not label.isdecimal() or len(label) > _LABEL_DIGITS:
            raise InvalidFileError(
                f"{file}, line {number}: {line[:60]!r} is not `path label`, such as "
                "`n01440764/n01440764_18.JPEG 0`"
            )
        if any(map(is_hidden, set(path.split("/")) - {".", ".."})):
            continue
        paths.append(path)
        labels.append(int(label))
    if not paths:
        raise InvalidFileError(f"{file} lists no images: lines are `path label`")
    root = next((root for root in roots if (root / paths[0]).is_file()), None)
    if root is None:
        searched = " or ".join(str(root) for root in roots)
        raise InvalidFileError(
            f"{file} lists {paths[0]}, but there is no such file in {searched}: paths are relative "
            "to one of these"
        )
    return FileStore(root, tuple(paths)), torch.tensor(labels, dtype=torch.int64)
