"""A unified block as a mixture: every sub-block is a weighted sum of its kernels.

The weights are probabilities p_k of the choices. A sub-block is the sum of p_k times kernel k over
p_k > 0.01, and a skip adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks.graph import NORM_EPSILON
from nas.supernet.depthwise import depthwise, reaching
from nas.supernet.frozen_functions import frozen_mix
from nas.supernet.fused import MOMENTUM, moments, relu6
from nas.supernet.norms import folded, remember, side_by_side
from nas.supernet.sub_blocks import SubBlock, SubBlockGroup, groups_of

THRESHOLD = 0.01  # choices of at most this probability are not computed, as published


def mixed(
    x: Tensor,
    sub_blocks: Sequence[SubBlock],
    probabilities: Tensor,
    *,
    active: Sequence[Sequence[int]],
    stride: int,
    training: bool,
) -> Tensor:
    """The sum of the weighted sub-blocks, before the switchable batch norm.

    Args:
        x: ``(N, C, H, W)``, channels last.
        sub_blocks: Sub-blocks of the layer.
        probabilities: Probabilities of choices, ``(6, 4)``.
        active: Kernels of each sub-block with a probability above ``THRESHOLD``; at least one.
        stride: Stride of the depthwise convolutions.
        training: Whether batch norms use the batch's statistics and update the running ones.

    Returns:
        ``(N, out_channels, H / stride, W / stride)``, differentiable by the probabilities.
    """
    bare = sum(bool(row) for row in active) == 1
    inputs = moments(x) if training and not bare else None
    parts = []
    for group in groups_of(sub_blocks, active):
        weights = [
            probabilities[group.members, c].repeat_interleave(x.shape[1]) for c in group.choices
        ]
        wide = x if bare else relu6(F.conv2d(x, *group.folded_expansion(x, inputs)))
        mix = _trained if training else _evaluated
        parts.append(mix(wide, group, weights, stride, bare=bare))
    return reduce(Tensor.add_, parts)


def _trained(
    wide: Tensor, group: SubBlockGroup, weights: Sequence[Tensor], stride: int, *, bare: bool
) -> Tensor:
    """Weighted kernels of a group in training, and their projection."""
    projection = group.projection()
    outputs = []
    for c in group.choices:
        y = depthwise(wide, group.kernel(c), stride)
        outputs.append(relu6(_batch_norm(y, group.kernel_norms(c, bare=bare))))
    return F.conv2d(_weighted(outputs, weights), projection)


def _evaluated(
    wide: Tensor, group: SubBlockGroup, weights: Sequence[Tensor], stride: int, *, bare: bool
) -> Tensor:
    """Weighted kernels of a group in evaluation mode, and their projection.

    With frozen weights only the gradients by the input and the probabilities are computed.
    """
    projection = group.projection()
    inclusive = [folded(group.kernel(c), group.kernel_norms(c, bare=bare)) for c in group.choices]
    if not (projection.requires_grad or any(t.requires_grad for f in inclusive for t in f)):
        return frozen_mix(
            wide,
            [reaching(kernel, wide) for kernel, _ in inclusive],
            [bias for _, bias in inclusive],
            weights,
            projection,
            stride,
        )
    outputs = [
        relu6(depthwise(wide, kernel, stride) + bias[:, None, None]) for kernel, bias in inclusive
    ]
    return F.conv2d(_weighted(outputs, weights), projection)


def _weighted(outputs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Sum of maps ``(N, K, H, W)``, each times the weights of its channels, ``(K,)``."""
    weighted = [y * p[:, None, None] for y, p in zip(outputs, weights, strict=True)]
    return reduce(Tensor.add, weighted)


def _batch_norm(x: Tensor, norms: Sequence[nn.BatchNorm2d]) -> Tensor:
    """Concatenated batch norms in training."""
    mean, variance, gain, bias = side_by_side(norms)
    y = F.batch_norm(x, mean, variance, gain, bias, True, MOMENTUM, NORM_EPSILON)
    remember(norms, mean, variance)
    return y
