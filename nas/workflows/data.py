"""The images that a workflow trains and tests on; data sets packed into one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latbench.progress import Progress, silent
from latbench.result import Result
from nas.data import load_data
from nas.data.imagenet import pack_imagenet
from nas.data.images import ImageData
from nas.spaces import Architecture, SearchSpace

AnyData = ImageData | str
"""A data set, or its name."""


def as_data(
    data: AnyData,
    network: Architecture | SearchSpace,
    *,
    data_dir: str | Path | None = None,
    images: int | None = None,
) -> ImageData:
    """The data set for networks of this input size and number of outputs.

    Args:
        data: A data set, or its name.
        network: What is to be trained.
        data_dir: Folder of a named data set's files.
        images: Number of training images to draw; None takes all.

    Raises:
        UnknownNameError: No such data set.
        MismatchError: It has another number of classes.
        InvalidFileError: Its files are missing or damaged.
    """
    if isinstance(data, ImageData):
        return data if images is None else data.subset(images, seed=0)
    return load_data(
        data,
        input_size=network.input_size,
        classes=network.classes,
        data_dir=data_dir,
        images=images,
    )


@dataclass(frozen=True, repr=False)
class PackedImages(Result):
    """Images that were packed into LMDB files.

    Attributes:
        train: Number of training images, in ``train.lmdb``.
        val: Number of test images, in ``val.lmdb``.
    """

    train: int
    val: int


def pack(folder: str | Path, output: str | Path, *, progress: Progress = silent) -> PackedImages:
    """Pack the images of a folder in a layout of ImageNet into two LMDB files.

    A file that is there already is kept, so that an interrupted packing goes on.

    Args:
        folder: Folders ``train`` and ``val`` of one folder a class, or lists of files.
        output: Folder for ``train.lmdb`` and ``val.lmdb``.
        progress: Gets the fraction done, and what is going on.

    Raises:
        InvalidFileError: The folder has no known layout, or a file cannot be read or written.
    """
    return PackedImages(**pack_imagenet(Path(folder), Path(output), progress=progress))
