"""Digests of data sets: equal for equal labels in equal order, different otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from nas.data.identity import labels_digest
from nas.data.imagenet import imagenet, pack_imagenet
from nas.data.images import Pairs, Split
from tests.nas.data.test_data import write_imagenet
from tests.nas.runs import tiny_data


def test_data_sets_differ_by_labels_their_order_classes_and_pairs() -> None:
    data = tiny_data(40)
    assert isinstance(data.train, Split)
    zeros = torch.zeros(4, dtype=torch.int64)
    pairs = Pairs(data.test, zeros, zeros + 1, zeros > 0, zeros)
    different = [
        data,
        data.subset(39, seed=0),
        data.subset(39, seed=1),
        replace(data, train=data.train.take(torch.arange(40).flip(0))),
        replace(data, test=data.test.take(torch.arange(39))),
        replace(data, train=data.test, test=data.train.take(torch.arange(41) % 40)),
        replace(data, classes=11),
        replace(data, pairs=pairs),
        replace(data, pairs=replace(pairs, fold=zeros + 1)),
    ]
    assert len({labels_digest(each) for each in different}) == len(different)
    assert labels_digest(tiny_data(40)) == labels_digest(data)


def test_packed_images_are_the_same_data_set(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "f")
    pack_imagenet(tmp_path / "f", tmp_path / "p")
    sizes_and_folders = ((16, "f"), (24, "f"), (16, "p"))
    found = {labels_digest(imagenet(size, tmp_path / name)) for size, name in sizes_and_folders}
    assert len(found) == 1
