"""Data sets that do not fit a network are refused in one line that says what fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latbench.errors import InvalidValueError, MismatchError
from nas.data.faces import faces
from nas.data.fit import require_fit
from nas.data.imagenet import imagenet
from nas.data.images import ImageData, Pairs
from tests.nas.data.test_data import write_image, write_imagenet
from tests.nas.runs import tiny_data


def _sizes(data: ImageData, size: int) -> None:
    """Fits its own size alone."""
    require_fit(data, input_size=size, classes=data.classes)
    with pytest.raises(MismatchError, match=f"{size} px.*take 32 px.*input size of 32"):
        require_fit(data, input_size=32, classes=data.classes)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    """In memory, in files, and pairs of faces."""
    _sizes(tiny_data(), 8)
    write_imagenet(tmp_path / "images")
    _sizes(imagenet(16, tmp_path / "images"), 16)
    for identity in "abcdef":
        for number in range(4):
            write_image(tmp_path / "faces" / identity / f"{number}.png", seed=number)
    pictures = faces(16, tmp_path / "faces")
    _sizes(pictures, 16)
    assert pictures.pairs is not None
    other = replace(faces(8, tmp_path / "faces"), train=pictures.train)
    with pytest.raises(MismatchError, match="8 px"):
        require_fit(other, input_size=16, classes=4)


def test_classes_are_compared_where_outputs_are_classes() -> None:
    with pytest.raises(MismatchError, match=r"has 10 classes.*have 7"):
        require_fit(tiny_data(), input_size=8, classes=7)
    pairs = Pairs(tiny_data().test, *torch.zeros(4, 1, dtype=torch.int64))
    embedded = replace(tiny_data(), task="face-recognition", pairs=pairs)
    require_fit(embedded, input_size=8, classes=7)


def test_faces_without_pairs_are_refused_before_a_training() -> None:
    for pairs in (None, Pairs(tiny_data().test, *torch.zeros(4, 0, dtype=torch.int64))):
        embedded = replace(tiny_data(), task="face-recognition", pairs=pairs)
        with pytest.raises(InvalidValueError, match="has no pairs: give"):
            require_fit(embedded, input_size=8, classes=7)
