"""ImageNet (Deng et al. 2009), or any images in its layout; they are read during training.

The given folder has one of these layouts, each with the parts ``train`` and ``val``:

* ``train/`` and ``val/``, each with a folder per class, as published;
* one list ``*train*.txt`` and one ``*val*.txt`` with lines of ``path label``, relative to
  ``train/`` and ``val/`` if these exist, else to the folder. Both lists may name images of
  ``train/``, as those of TF-NAS's 100 classes do;
* ``train.lmdb`` and ``val.lmdb``, written by ``latbench pack``.

Lists have precedence over folders, so a list can choose a part of the folders. Files and folders
whose names start with a dot are ignored, in folders and in lists.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from latbench.errors import InvalidFileError, MismatchError
from latbench.files import is_hidden
from latbench.progress import Phase, Phases, Progress, silent
from nas.data.decoders import DecodingProcesses
from nas.data.folders import class_folders, given_folder, read_folders, read_list
from nas.data.images import ImageData
from nas.data.packed import LmdbStore, holds, pack
from nas.data.stored import StoredSplit
from nas.data.stores import Store

TRAIN, VAL = "train", "val"
_SIZE, _MARGIN = 224, 32  # published: resize to 256 = 224 + 32, cut out the centre
_LEAST_AREA = 0.2  # smallest part of the area in a training crop
_MEAN, _STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # customary statistics of ImageNet's pixels
_LAYOUT = (
    "it needs folders train/ and val/ with one folder per class, lists *train*.txt and *val*.txt "
    "with lines of `path label`, or train.lmdb and val.lmdb"
)


def imagenet(input_size: int, data_dir: Path | None) -> ImageData:
    """The images of a folder at an input size in pixels.

    Held-out and test images show their centre, 7/8 of the shorter side, as published for 224 px.

    Raises:
        InvalidFileError: The folder is missing or has another layout.
    """
    data_dir = given_folder(data_dir, what="imagenet is", layout=_LAYOUT)
    (train, train_labels), (test, test_labels) = _parts(data_dir)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    processes = DecodingProcesses()
    margin = round(input_size * _MARGIN / _SIZE)  # the same part of the image at every size

    def split(store: Store, labels: Tensor, least_area: float | None) -> StoredSplit:
        numbers = torch.arange(len(labels))
        return StoredSplit(store, numbers, labels, input_size, margin, least_area, processes)

    return ImageData(
        "imagenet",
        classes,
        split(train, train_labels, _LEAST_AREA),
        split(test, test_labels, None),
        _MEAN,
        _STD,
        flip=True,
    )


def pack_imagenet(folder: Path, output: Path, *, progress: Progress = silent) -> dict[str, int]:
    """Write the images of a folder into ``train.lmdb`` and ``val.lmdb``; return how many.

    A part that exists already is kept, so an interrupted packing can be resumed. It is compared by
    its labels and by a thousand of its images.

    Raises:
        InvalidFileError: The folder has no known layout, or a file cannot be read or written.
        MismatchError: A part exists already and has other images.
    """
    progress(0.0, "listing the images")
    data = imagenet(_SIZE, folder)  # files are packed as they are, whatever the size
    parts = {TRAIN: data.train, VAL: data.test}
    with Phases(
        progress, [Phase(name, float(len(part))) for name, part in parts.items()]
    ) as phases:
        for name, part in parts.items():
            file = output / f"{name}.lmdb"
            assert isinstance(part, StoredSplit)
            if file.exists():
                if not holds(file, part):
                    raise MismatchError(
                        f"{file} exists and holds other images: choose another folder (-o), or "
                        "delete it"
                    )
            else:
                pack(part, file, progress=phases[name])
    return {name: len(part) for name, part in parts.items()}


def _parts(folder: Path) -> tuple[tuple[Store, Tensor], tuple[Store, Tensor]]:
    packed = [folder / f"{name}.lmdb" for name in (TRAIN, VAL)]
    if all(path.is_file() for path in packed):
        train, test = (LmdbStore(path) for path in packed)
        return (train, train.labels), (test, test.labels)
    lists = [_list(folder, name) for name in (TRAIN, VAL)]
    if lists[0] is not None and lists[1] is not None:
        return _listed(lists[0], folder, TRAIN), _listed(lists[1], folder, VAL)
    if (folder / TRAIN).is_dir() and (folder / VAL).is_dir():
        classes = class_folders(folder / TRAIN)
        others = set(class_folders(folder / VAL)) ^ set(classes)
        if others:
            raise InvalidFileError(
                f"train/ and val/ in {folder} have different classes, such as {min(others)}: "
                "both need the same folders (the validation images as published lie in one "
                "folder and have to be sorted into their classes)"
            )
        if classes:
            return read_folders(folder / TRAIN, classes), read_folders(folder / VAL, classes)
    raise InvalidFileError(f"{folder} holds no images in a known layout: {_LAYOUT}")


def _list(folder: Path, name: str) -> Path | None:
    lists = (path for path in folder.glob("*.txt") if not is_hidden(path.name))
    found = sorted(path for path in lists if name in path.name)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InvalidFileError(f"{folder} has several lists of {name}: {names}; keep one")
    return found[0] if found else None


def _listed(file: Path, folder: Path, part: str) -> tuple[Store, Tensor]:
    return read_list(file, [folder / part, folder / TRAIN, folder])
