"""Data sets. A new one is one file here and one line in ``DATASETS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from latbench.registry import Registry
from nas.data.fit import require_fit

if TYPE_CHECKING:  # decoding processes import this package without torch
    from nas.data.images import ImageData

DATASETS: Registry[Callable[[int, Path | None], ImageData]] = Registry(
    "data set",
    {
        "digits": "nas.data.digits:digits",
        "fashion-mnist": "nas.data.fashion_mnist:fashion_mnist",
        "cifar10": "nas.data.cifar:cifar10",
        "cifar100": "nas.data.cifar:cifar100",
        "imagenet": "nas.data.imagenet:imagenet",
        "faces": "nas.data.faces:faces",
    },
    group="latbench.datasets",
)


def load_data(
    name: str,
    *,
    input_size: int,
    classes: int,
    data_dir: str | Path | None = None,
    images: int | None = None,
) -> ImageData:
    """The data set called ``name``, for networks with this input size and number of outputs.

    A network that recognises identities gives an embedding; its outputs are not classes.

    Args:
        name: Name of the data set, such as ``"digits"``.
        input_size: Side of the images in pixels, to which they are resized.
        classes: Number of outputs of the networks.
        data_dir: Folder of the data set's files, for data sets that are not part of a package.
        images: Number of training images to draw; None takes all.

    Raises:
        UnknownNameError: There is no such data set.
        MismatchError: The data set has another number of classes.
        InvalidFileError: Its files are missing or damaged.
    """
    data = DATASETS[name](input_size, None if data_dir is None else Path(data_dir))
    named = replace(data, name=name)
    require_fit(named, input_size=input_size, classes=classes)
    return named if images is None else named.subset(images, seed=0)
