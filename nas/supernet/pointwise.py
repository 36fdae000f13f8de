"""Pointwise convolutions of small maps as products of matrices, which channels last they are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_SMALL = 4  # pixels a side, up to which a product of matrices is faster


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1 x 1 convolution: ``(N, C, H, W)`` and ``(D, C, 1, 1)`` to ``(N, D, H, W)``."""
    if x.shape[-1] > _SMALL:
        return F.conv2d(x, weight, bias)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
