"""Images found in folders and in lists: a folder a class, or lines of path and label."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from latbench.errors import InvalidFileError
from nas.data.stored import FileStore

_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm")


def given_folder(data_dir: Path | None, *, what: str, layout: str) -> Path:
    """The folder of a data set that nobody downloads.

    Args:
        data_dir: As given on the command line.
        what: The data set and its verb, such as ``faces are``.
        layout: What the folder needs, in words.

    Raises:
        InvalidFileError: None was given, or it is no folder.
    """
    if data_dir is None:
        raise InvalidFileError(f"{what} not downloaded: give --data-dir a folder; {layout}")
    if not data_dir.is_dir():
        raise InvalidFileError(f"{data_dir} is no folder: {layout}")
    return data_dir


def class_folders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted: the order of the classes.

    Raises:
        InvalidFileError: The folder cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise InvalidFileError(f"cannot read the folder {root}: {error.strerror}") from error


def read_folders(root: Path, classes: list[str]) -> tuple[FileStore, Tensor]:
    """All images in the folders of these classes; labels int64 ``(N,)`` count the classes.

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
            return sorted(e.name for e in entries if e.name.lower().endswith(_SUFFIXES))
    except OSError as error:
        raise InvalidFileError(f"cannot read the folder {folder}: {error.strerror}") from error


def read_list(file: Path, root: Path) -> tuple[FileStore, Tensor]:
    """Images named by lines of ``path label``, relative to a folder; labels int64 ``(N,)``.

    Raises:
        InvalidFileError: A line is something else, or the first image is not there.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"cannot read {file}: {error}") from error
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        path, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not path or not label.isdecimal():
            raise InvalidFileError(
                f"{file}, line {number}: {line[:60]!r} is no `path label`, such as "
                "`n01440764/n01440764_18.JPEG 0`"
            )
        paths.append(path)
        labels.append(int(label))
    if not paths:
        raise InvalidFileError(f"{file} lists no images: lines are `path label`")
    if not (root / paths[0]).is_file():
        raise InvalidFileError(
            f"{file} lists {paths[0]}, but {root} holds no such file: paths are relative to it"
        )
    return FileStore(root, tuple(paths)), torch.tensor(labels, dtype=torch.int64)
