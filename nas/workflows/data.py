"""The data set of a workflow; packing of images into LMDB files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latbench.progress import Progress, silent
from latbench.result import Result
from nas.data import load_data
from nas.data.fit import require_fit
from nas.data.identity import labels_digest
from nas.data.imagenet import pack_imagenet
from nas.data.images import ImageData
from nas.spaces import Architecture, SearchSpace
from nas.training.run_config import LABELS

AnyData = ImageData | str
"""A data set, or its name."""


def as_data(
    data: AnyData,
    network: Architecture | SearchSpace,
    *,
    data_dir: str | Path | None = None,
    images: int | None = None,
) -> ImageData:
    """The data set for networks with this input size and number of outputs.

    Args:
        data: A data set, or its name.
        network: The space or network to train.
        data_dir: Folder of a named data set's files.
        images: Number of training images to draw; None takes all.

    Raises:
        UnknownNameError: There is no such data set.
        MismatchError: It has another number of classes, or images of another size.
        InvalidFileError: Its files are missing or damaged.
    """
    return fitting_data(
        data,
        input_size=network.input_size,
        classes=network.classes,
        data_dir=data_dir,
        images=images,
    )


def fitting_data(
    data: AnyData,
    *,
    input_size: int,
    classes: int,
    data_dir: str | Path | None,
    images: int | None,
) -> ImageData:
    """As ``as_data``, for an input size in pixels and a number of outputs."""
    if isinstance(data, ImageData):
        require_fit(data, input_size=input_size, classes=classes)
        return data if images is None else data.subset(images, seed=0)
    return load_data(data, input_size=input_size, classes=classes, data_dir=data_dir, images=images)


def data_identity(data: ImageData) -> dict[str, Any]:
    """The part of a run's configuration that says which images it has."""
    return {"data": data.name, "images": data.images, LABELS: labels_digest(data)}


@dataclass(frozen=True, repr=False)
class PackedImages(Result):
    """Numbers of images packed into LMDB files.

    Attributes:
        train: Number of training images, in ``train.lmdb``.
        val: Number of test images, in ``val.lmdb``.
    """

    train: int
    val: int


def pack(folder: str | Path, output: str | Path, *, progress: Progress = silent) -> PackedImages:
    """Pack the images of a folder in a layout of ImageNet into two LMDB files.

    A file that exists already is kept if it has the same images, so an interrupted packing can be
    resumed.

    Args:
        folder: Folder with ``train`` and ``val``, one folder per class in each, or with lists of
            files.
        output: Folder for ``train.lmdb`` and ``val.lmdb``.
        progress: Callback with the fraction done and a short description.

    Raises:
        InvalidFileError: The folder has no known layout, or a file cannot be read or written.
        MismatchError: A file exists already and has other images.
    """
    return PackedImages(**pack_imagenet(Path(folder), Path(output), progress=progress))
