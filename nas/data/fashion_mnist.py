"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of clothes, 28 x 28 px, 10 classes.

The images are read from a folder of IDX files, compressed or not. Without a folder, they are read
from Debian's package ``dataset-fashion-mnist``, or downloaded by torchvision.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from latbench.errors import InvalidFileError, MissingExtraError
from nas.data.folders import downloads
from nas.data.images import ImageData, Split, image_data

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_UNSIGNED_BYTE = 0x08
_GZIP = b"\x1f\x8b"
_CLASSES = 10
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def fashion_mnist(input_size: int, data_dir: Path | None) -> ImageData:
    """Fashion-MNIST at an input size in pixels.

    Raises:
        InvalidFileError: The folder holds no such files, or they are damaged; or there is no
            folder and no network.
    """
    folder = data_dir or (_DEBIAN if _DEBIAN.is_dir() else _download())
    train, test = (_split(folder, *names) for names in _FILES.values())
    return image_data(
        "fashion-mnist", train=train, test=test, classes=_CLASSES, input_size=input_size, flip=True
    )


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of bytes: magic number, dimensions, values, all big-endian.

    Raises:
        InvalidFileError: The file is unreadable, truncated or not an IDX file.
    """
    try:
        raw = path.read_bytes()
        if raw.startswith(_GZIP):
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidFileError(f"cannot read {path}: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE:
        raise InvalidFileError(f"{path} is not an IDX file of bytes")
    header = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:header]) if len(raw) >= header else (0,)
    if not shape or len(raw) != header + prod(shape):
        raise InvalidFileError(f"{path} is truncated or damaged")
    return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8).reshape(shape)


def _split(folder: Path, images_name: str, labels_name: str) -> Split:
    images, labels = (read_idx(_find(folder, name)) for name in (images_name, labels_name))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise InvalidFileError(f"{folder}: {images_name} and {labels_name} do not fit together")
    if len(labels) == 0 or int(labels.max()) >= _CLASSES:
        raise InvalidFileError(f"{folder}: {labels_name} holds no labels of {_CLASSES} classes")
    return Split(images[:, None], labels.long())


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise InvalidFileError(
        f"no {name} or {name}.gz in {folder}: give --data-dir the folder of Fashion-MNIST's IDX "
        "files, such as Debian's package dataset-fashion-mnist installs"
    )


def _download() -> Path:
    try:
        from torchvision.datasets import FashionMNIST
    except ImportError:
        raise MissingExtraError("torchvision", "nas") from None
    try:
        with downloads() as root:
            FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise InvalidFileError(
            f"Fashion-MNIST could not be downloaded ({error}): give --data-dir a folder of its "
            "IDX files, or install Debian's package dataset-fashion-mnist"
        ) from error
    return root / "FashionMNIST" / "raw"
