"""Modules of a supernet's layers that compute the same as the renderer's, in less time.

They are faster on a CPU with channels-last tensors, in four ways. Depthwise convolutions of large
kernels compute their weight gradient differently (``nas.supernet.depthwise``). 1x1 convolutions of
small maps are matrix products. A channel shuffle is vectorised (``nas.supernet.shuffle``). The
gradient of a global average is stored channels last too: otherwise every layer before it is slow
(the last norm and activation took ten times as long). On a GPU these modules call the library's own
functions. Parameters have the names and shapes of the renderer's.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks.graph import NORM_EPSILON, Conv, Norm, Pool, Shuffle
from latbench.render.torch import ConvModule, Modules
from nas.supernet.depthwise import depthwise
from nas.supernet.pointwise import pointwise
from nas.supernet.shuffle import FastShuffle


class FastConv(ConvModule):
    """A convolution of a graph."""

    def __init__(self, layer: Conv) -> None:
        super().__init__(layer)
        plain = not layer.bias and layer.padding == layer.kernel // 2
        self._depthwise = plain and layer.groups == layer.in_channels == layer.out_channels
        self._pointwise = layer.kernel == layer.groups == 1 and not layer.padding

    def forward(self, x: Tensor) -> Tensor:
        if self._depthwise:
            return depthwise(x, self.weight, self.stride[0])
        if self._pointwise:
            return pointwise(x, self.weight, self.bias, stride=self.stride[0])
        return super().forward(x)


class FastPool(nn.Module):
    """Global average pooling, ``(N, C, H, W)`` to ``(N, C, 1, 1)``."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.adaptive_avg_pool2d(x, 1)
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)[:, :, None, None]


def modules_of(norms: Literal["batch", "running"]) -> Modules:
    """Factory of a supernet's layers, with the norms that ``Supernet`` documents."""
    running = norms == "running"

    def norm(layer: Any) -> nn.Module:
        return nn.BatchNorm2d(
            layer.channels, eps=NORM_EPSILON, affine=running, track_running_stats=running
        )

    return {
        Conv: FastConv,
        Norm: norm,
        Pool: lambda layer: FastPool(),
        Shuffle: lambda layer: FastShuffle(layer.groups),
    }


Initial = Literal["torch", "he"]
"""Initial weights: torch's default, as in TF-NAS, or He's normal by fan-out, as in SGNAS."""


def initialise(module: nn.Module, initial: Initial) -> None:
    """Give a fresh module its initial weights; biases are zero.

    The two differ most in depthwise convolutions, whose fan-out torch counts over all groups: at
    1,152 channels and kernel 3 the standard deviation is 0.192 by torch's default and 0.014 by He.

    Args:
        module: A newly created convolution or linear layer; other modules are not changed.
        initial: ``torch`` keeps the weights.
    """
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    if initial == "torch":
        return
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    else:
        nn.init.normal_(module.weight, std=0.01)
