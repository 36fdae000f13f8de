"""A unified block along a path: every sub-block has one kernel or is skipped.

Only the active sub-blocks are computed. In training, a CPU folds the expansion's batch norm into
its convolution and recomputes maps in the backward pass. A GPU keeps maps and makes few calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch.nn.functional as F
from torch import Tensor, nn

from nas.spaces.sgnas import SKIP
from nas.supernet.depthwise import depthwise, reaching
from nas.supernet.fused import expand_depthwise, moments, norm_project, relu6
from nas.supernet.norms import RunningStatistics, folded, remember, side_by_side
from nas.supernet.pointwise import product
from nas.supernet.sub_blocks import SubBlock, SubBlockGroup, groups_of

GPU_GROUP = 2
"""Largest number of sub-blocks with equal kernels that a GPU computes together. cuDNN takes some 20
ms to plan a convolution of another number of channels; more than two are rarely equal."""

FOLDED_VALUES = 100_000_000
"""A GPU folds the expansion's batch norm in training if a layer's expanded map has at least this
many values. The number is calculated, not measured: folding saves 7 passes over the map, of 2 bytes
a value at some 2.5 TB/s, and takes 50 calls of some 4 us for each of about 3 groups."""


def along_path(
    x: Tensor,
    sub_blocks: Sequence[SubBlock],
    choices: Sequence[int],
    *,
    stride: int,
    training: bool,
    statistics: RunningStatistics,
) -> Tensor:
    """The sum of the active sub-blocks, before the switchable batch norm.

    Args:
        x: ``(N, C, H, W)``, channels last.
        sub_blocks: Sub-blocks of the layer.
        choices: One choice for each sub-block; at least one is not skipped.
        stride: Stride of the depthwise convolutions.
        training: Whether batch norms use the batch's statistics and update the running ones.
        statistics: Collects batch statistics on a GPU; the caller updates the running ones.

    Returns:
        ``(N, out_channels, H / stride, W / stride)``.
    """
    active = [[] if c == SKIP else [c] for c in choices]
    expansion = sum(bool(row) for row in active)
    if expansion == 1:  # no expansion convolution, on any device
        (group,) = groups_of(sub_blocks, active)
        return _bare(x, group, stride, training=training)
    if not training:
        parts = [_evaluated(x, group, stride) for group in groups_of(sub_blocks, active)]
    elif x.device.type == "cpu":
        inputs = moments(x)
        parts = [_trained(x, group, inputs, stride) for group in groups_of(sub_blocks, active)]
    else:
        folds = x.numel() * expansion >= FOLDED_VALUES
        gpu_inputs = moments(x) if folds else None
        parts = [
            _trained_on_gpu(x, group, gpu_inputs, stride=stride, statistics=statistics)
            for group in groups_of(sub_blocks, active, at_most=GPU_GROUP)
        ]
    return reduce(Tensor.add_, parts)


def _bare(x: Tensor, group: SubBlockGroup, stride: int, *, training: bool) -> Tensor:
    """The only active sub-block of a layer, which has no expansion."""
    (choice,) = group.choices
    norms = group.kernel_norms(choice, bare=True)
    if training:
        return _projected(depthwise(x, group.kernel(choice), stride), group, norms)
    return _convolved(x, group, norms, stride)


def _evaluated(x: Tensor, group: SubBlockGroup, stride: int) -> Tensor:
    """A group in evaluation mode, expansion to projection."""
    wide = relu6(F.conv2d(x, *group.folded_expansion(x, None)))
    return _convolved(wide, group, group.kernel_norms(group.choices[0]), stride)


def _convolved(
    wide: Tensor, group: SubBlockGroup, norms: Sequence[nn.BatchNorm2d], stride: int
) -> Tensor:
    """Depthwise kernels and projection of a group in evaluation mode."""
    kernel, bias = folded(group.kernel(group.choices[0]), norms)
    y = relu6(depthwise(wide, kernel, stride) + bias[:, None, None])
    return F.conv2d(y, group.projection())


def _trained(x: Tensor, group: SubBlockGroup, inputs: tuple[Tensor, Tensor], stride: int) -> Tensor:
    """A group in training on a CPU, expansion to projection."""
    (choice,) = group.choices
    kernel = group.kernel(choice)
    y = expand_depthwise(x, *group.folded_expansion(x, inputs), reaching(kernel, x), stride)
    return _projected(y, group, group.kernel_norms(choice))


def _projected(y: Tensor, group: SubBlockGroup, norms: Sequence[nn.BatchNorm2d]) -> Tensor:
    """Batch norm in training, ReLU6 and a group's projection."""
    mean, variance, gain, bias = side_by_side(norms)
    out = norm_project(y, mean, variance, gain, bias, group.projection())
    remember(norms, mean, variance)
    return out


def _trained_on_gpu(
    x: Tensor,
    group: SubBlockGroup,
    inputs: tuple[Tensor, Tensor] | None,
    *,
    stride: int,
    statistics: RunningStatistics,
) -> Tensor:
    """Like ``_trained``, with few calls: on small maps a GPU waits for calls.

    Folding the expansion's batch norm takes some fifty small calls and saves seven passes over the
    widest map, which is worthwhile only on the largest maps (``FOLDED_VALUES``).
    """
    (choice,) = group.choices
    kernel = group.kernel(choice)
    if inputs is not None:
        y = expand_depthwise(x, *group.folded_expansion(x, inputs), reaching(kernel, x), stride)
    else:
        wide = statistics.norm_relu6(product(x, group.expansion()), group.expansion_norms())
        y = depthwise(wide, kernel, stride)
    y = statistics.norm_relu6(y, group.kernel_norms(choice))
    return product(y, group.projection())
