"""Batches brought to the device that computes on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Images uint8 ``(B, C, S, S)`` and labels int64 ``(B,)``."""


def feed(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, one after another, on a device."""
    for images, labels in batches:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
