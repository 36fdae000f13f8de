"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32 x 32 px.

They are read from the published pickles for Python; without a folder, torchvision downloads them. A
pickle may use only the names that an array needs. Any other name is refused, so a file cannot run
code.
"""

from __future__ import annotations

import codecs
import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from latbench.errors import InvalidFileError, MissingExtraError
from nas.data.folders import downloads
from nas.data.images import ImageData, Split, image_data

_PIXELS = 3 * 32 * 32

# names in pickles of NumPy arrays, by old and new module names
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


@dataclass(frozen=True)
class _Layout:
    name: str
    classes: int
    folder: str
    train: tuple[str, ...]
    test: str
    labels: bytes


_CIFAR10 = _Layout(
    "cifar10",
    10,
    "cifar-10-batches-py",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch",
    b"labels",
)
_CIFAR100 = _Layout("cifar100", 100, "cifar-100-python", ("train",), "test", b"fine_labels")


def cifar10(input_size: int, data_dir: Path | None) -> ImageData:
    """CIFAR-10 at an input size in pixels.

    Raises:
        InvalidFileError: The folder holds no such files, or they are damaged; or there is no
            folder and no network.
    """
    return _cifar(_CIFAR10, input_size, data_dir)


def cifar100(input_size: int, data_dir: Path | None) -> ImageData:
    """CIFAR-100 with its 100 fine classes; like ``cifar10``."""
    return _cifar(_CIFAR100, input_size, data_dir)


def _cifar(layout: _Layout, input_size: int, data_dir: Path | None) -> ImageData:
    folder = data_dir or _download(layout)
    if (folder / layout.folder).is_dir():
        folder = folder / layout.folder
    parts = [_split(folder / name, layout) for name in layout.train]
    train = Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
    return image_data(
        layout.name,
        train=train,
        test=_split(folder / layout.test, layout),
        classes=layout.classes,
        input_size=input_size,
        flip=True,
    )


def _split(path: Path, layout: _Layout) -> Split:
    if not path.is_file():
        raise InvalidFileError(
            f"no {path.name} in {path.parent}: give --data-dir the folder {layout.folder} of the "
            "published archive for Python"
        )
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        images = np.ascontiguousarray(content[b"data"])
        labels = np.asarray(content[layout.labels], dtype=np.int64)
        if images.dtype != np.uint8 or images.shape != (len(labels), _PIXELS):
            raise ValueError("its images are not rows of 3072 bytes")
        if len(labels) == 0 or not 0 <= labels.min() <= labels.max() < layout.classes:
            raise ValueError(f"its labels are not 0 to {layout.classes - 1}")
    except Exception as error:  # a damaged pickle can raise any exception
        raise InvalidFileError(
            f"{path} is damaged or not a file of {layout.name} ({type(error).__name__}: {error}): "
            "unpack the published archive again"
        ) from error
    return Split(torch.from_numpy(images.reshape(-1, 3, 32, 32)), torch.from_numpy(labels))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it uses {module}.{name}, which no array needs")
        return _ALLOWED[module, name]


def _download(layout: _Layout) -> Path:
    try:
        from torchvision import datasets
    except ImportError:
        raise MissingExtraError("torchvision", "nas") from None
    family = datasets.CIFAR10 if layout is _CIFAR10 else datasets.CIFAR100
    try:
        with downloads() as root:
            family(str(root), download=True)  # checks the archive's MD5
    except (OSError, RuntimeError) as error:
        raise InvalidFileError(
            f"{layout.name} could not be downloaded ({error}): give --data-dir the folder "
            f"{layout.folder} of the published archive for Python"
        ) from error
    return root
