"""Faces for training, in one folder per identity, and pairs of other faces for verification.

The given folder has one of two layouts:

* ``train/`` with a folder per identity (CASIA-WebFace's layout), ``test/`` with one per person
  (LFW's, images ``Name/Name_0001.jpg``), and ``pairs.txt`` in LFW's format in either place;
* folders of identities only. Then a tenth of the identities, 2 to 200, is held out from training.
  Pairs of their images are drawn, half of them of one identity; they are always the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from latbench.errors import InvalidFileError
from latbench.files import read_text
from nas.data.folders import class_folders, given_folder, images_in, read_folders
from nas.data.images import ImageData, Pairs, generator
from nas.data.stored import StoredSplit
from nas.data.stores import FileStore

FOLDS = 10  # folds of LFW's protocol
_PIXEL = 0.5  # mean and deviation that scale pixels to -1..1, customary for faces
_HELD_OUT = 0.1  # share of the identities, if no pairs are given
_MOST_HELD_OUT, _MOST_IMAGES = 200, 10  # identities and images of each: 9000 pairs of one
_PAIRS = 6000  # the number of pairs in LFW; fewer if there are not enough
_SPLIT_SEED = 0
_MAX_PAIRS_BYTES = 64 << 20  # LFW's take 0.2 MB
_LAYOUT = (
    "it needs train/ and test/ with one folder per identity and LFW's pairs.txt, or only folders "
    "of identities"
)


def faces(input_size: int, data_dir: Path | None) -> ImageData:
    """The faces of a folder at an input size in pixels; classes are the identities to train on.

    Raises:
        InvalidFileError: The folder is missing or has another layout.
    """
    data_dir = given_folder(data_dir, what="faces are", layout=_LAYOUT)
    if (data_dir / "train").is_dir():
        identities = class_folders(data_dir / "train")
        if len(identities) < 2:
            raise InvalidFileError(
                f"{data_dir / 'train'} holds fewer than two identities: {_LAYOUT}"
            )
        train = _split(data_dir / "train", identities, input_size)
        pairs = _listed_pairs(data_dir, input_size)
        return _data(train, pairs, len(identities))
    identities = class_folders(data_dir)
    count = min(_MOST_HELD_OUT, max(2, round(len(identities) * _HELD_OUT)))
    if len(identities) < count + 2:
        raise InvalidFileError(
            f"{data_dir} holds {len(identities)} folders of identities, and 4 or more are "
            f"needed: {_LAYOUT}"
        )
    order = torch.randperm(len(identities), generator=generator(_SPLIT_SEED)).tolist()
    kept = sorted(identities[i] for i in order[count:])
    others = sorted(identities[i] for i in order[:count])
    pairs = _drawn_pairs(_split(data_dir, others, input_size))
    return _data(_split(data_dir, kept, input_size), pairs, len(kept))


def _data(train: StoredSplit, pairs: Pairs, identities: int) -> ImageData:
    assert isinstance(pairs.images, StoredSplit)
    return ImageData(
        "faces",
        identities,
        replace(train, gpu_decoders=pairs.images.gpu_decoders),
        pairs.images,
        _PIXEL,
        _PIXEL,
        flip=True,
        task="face-recognition",
        pairs=pairs,
    )


def _split(root: Path, identities: list[str], input_size: int) -> StoredSplit:
    store, labels = read_folders(root, identities)
    return StoredSplit(store, torch.arange(len(labels)), labels, input_size, margin=0)


def _listed_pairs(folder: Path, input_size: int) -> Pairs:
    """The pairs of LFW's file: for each fold, n pairs of one person, then n of two persons.

    Its first line is ``folds n``; then come lines ``name i j`` and ``name i name j``.
    """
    file = folder / "pairs.txt"
    if not file.is_file():
        file = folder / "test" / "pairs.txt"
    if not file.is_file():
        raise InvalidFileError(f"no pairs.txt in {folder}: {_LAYOUT}")
    text = read_text(file, what="LFW's list of pairs", limit=_MAX_PAIRS_BYTES)
    lines = [line.split() for line in text.splitlines() if line.strip()]
    numbers = lines[0] if lines else []
    if not (1 <= len(numbers) <= 2 and all(word.isdecimal() for word in numbers)):
        raise InvalidFileError(
            f"{file}, line 1: it must be numbers of folds and pairs, such as `10 300`"
        )
    folds, each = (FOLDS, int(numbers[0])) if len(numbers) == 1 else map(int, numbers)
    if len(lines) != 1 + 2 * folds * each or folds < 2 or each < 1:
        raise InvalidFileError(
            f"{file} declares {folds} folds of {each} and {each} pairs, which makes "
            f"{2 * folds * each} lines, but has {len(lines) - 1}"
        )
    root = folder / "test"
    people: dict[str, list[str]] = {}
    paths: dict[str, int] = {}

    def image(name: str, number: str, line: int) -> int:
        if name not in people:
            people[name] = images_in(root / name)
        stem = f"{name}_{int(number):04d}."
        found = next((file for file in people[name] if file.startswith(stem)), None)
        if found is None:
            raise InvalidFileError(f"{file}, line {line}: {root / name} holds no {stem}jpg")
        return paths.setdefault(f"{name}/{found}", len(paths))

    first, second, same, fold = [], [], [], []
    for line, words in enumerate(lines[1:], start=2):
        if len(words) not in (3, 4) or not (words[1].isdecimal() and words[-1].isdecimal()):
            raise InvalidFileError(
                f"{file}, line {line}: it is neither `name i j` nor `name i name j`"
            )
        first.append(image(words[0], words[1], line))
        second.append(image(words[-2] if len(words) == 4 else words[0], words[-1], line))
        same.append(len(words) == 3)
        fold.append((line - 2) // (2 * each))
    store = FileStore(root, tuple(paths))
    count = len(paths)
    images = StoredSplit(
        store, torch.arange(count), torch.zeros(count, dtype=torch.int64), input_size, margin=0
    )
    return Pairs(
        images,
        torch.tensor(first),
        torch.tensor(second),
        torch.tensor(same),
        torch.tensor(fold),
    )


def _drawn_pairs(images: StoredSplit) -> Pairs:
    """Pairs of images, half of them of one identity, in ten folds; no pair occurs twice."""
    rng = generator(_SPLIT_SEED, 1)
    starts = torch.searchsorted(images.labels, images.labels)  # labels are sorted
    images = images.take((torch.arange(len(images)) - starts < _MOST_IMAGES).nonzero().flatten())
    labels = images.labels
    upper = torch.triu_indices(len(labels), len(labels), offset=1)  # (2, all pairs)
    alike = labels[upper[0]] == labels[upper[1]]
    of_one, of_two = alike.nonzero().flatten(), (~alike).nonzero().flatten()
    each = min(_PAIRS // 2, len(of_one), len(of_two))
    if each < FOLDS:
        raise InvalidFileError(
            f"the held-out identities give {each} pairs of one identity and of two, and "
            f"{FOLDS} are needed: give more images of each identity"
        )
    drawn = [part[torch.randperm(len(part), generator=rng)[:each]] for part in (of_one, of_two)]
    index = torch.stack(drawn, dim=1).flatten()  # one and two in turn, so that folds are balanced
    fold = torch.arange(len(index)) * FOLDS // len(index)
    return Pairs(images, upper[0, index], upper[1, index], alike[index], fold)
