"""Data sets. A new one is one file here and one line in ``DATASETS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from latbench.errors import MismatchError
from latbench.registry import Registry

if TYPE_CHECKING:  # processes that decode images import this package, and no torch
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
    name: str, *, input_size: int, classes: int, data_dir: Path | None = None
) -> ImageData:
    """The data set called ``name`` for networks of this input size and number of outputs.

    A network that recognises identities gives an embedding: its outputs are no classes.

    Raises:
        UnknownNameError: No such data set.
        MismatchError: It has another number of classes.
        InvalidFileError: Its files are missing or damaged.
    """
    data = DATASETS[name](input_size, data_dir)
    if data.task == "classification" and data.classes != classes:
        raise MismatchError(
            f"{name} has {data.classes} classes, but the networks have {classes}: profile or "
            f"draw them with --classes {data.classes}"
        )
    return data
