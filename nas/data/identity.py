"""Digests that tell data sets apart, as the configurations of runs hold them."""

from __future__ import annotations

from hashlib import sha256

import torch
from torch import Tensor

from nas.data.images import ImageData


def labels_digest(data: ImageData) -> str:
    """A digest of the number of classes, of all labels in their order, and of pairs.

    It reads no pixels. So two data sets have the same digest if their labels are the same in the
    same order, as those of packed images are.
    """
    numbers = torch.tensor([data.classes, len(data.train), len(data.test)])
    return digest(numbers, data.train.labels, *tested(data))


def tested(data: ImageData) -> tuple[Tensor, ...]:
    """What a test compares with: the labels, or the pairs and whether they are the same."""
    pairs = data.pairs
    return (pairs.first, pairs.second, pairs.same, pairs.fold) if pairs else (data.test.labels,)


def digest(*values: Tensor) -> str:
    """A digest of tensors, 16 hexadecimal digits; equal tensors have equal digests."""
    whole = sha256()
    for each in values:
        whole.update(each.cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]
