"""Data sets. A new one is one file here and one line in ``DATASETS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latbench.errors import MismatchError
from latbench.registry import Registry
from nas.data.images import ImageData

DATASETS: Registry[Callable[[int, Path | None], ImageData]] = Registry(
    "data set",
    {
        "digits": "nas.data.digits:digits",
        "fashion-mnist": "nas.data.fashion_mnist:fashion_mnist",
    },
    group="latbench.datasets",
)


def load_data(
    name: str, *, input_size: int, classes: int, data_dir: Path | None = None
) -> ImageData:
    """The data set called ``name`` for networks of this input size and number of classes.

    Raises:
        UnknownNameError: No such data set.
        MismatchError: It has another number of classes.
        InvalidFileError: Its files are missing or damaged.
    """
    data = DATASETS[name](input_size, data_dir)
    if data.classes != classes:
        raise MismatchError(
            f"{name} has {data.classes} classes, but the networks have {classes}: profile or "
            f"draw them with --classes {data.classes}"
        )
    return data
