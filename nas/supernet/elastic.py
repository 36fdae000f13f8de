"""An inverted residual of elastic width: weights live once, a width is a set of channels.

Parameters have the names and the layout of the renderer's module of the widest block, so that
``slice_parameters`` is, name for name, the state of the rebuilt narrower block. Batch norms
use the batch's statistics and have no parameters, as in TF-NAS's supernet.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks import InvertedResidual
from latbench.blocks.graph import NORM_EPSILON, Activation

_ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "swish": F.silu, "hswish": F.hardswish}

# which axis of a parameter runs over the elastic channels
_ELASTIC_AXIS = {
    "expand.weight": 0,
    "depthwise.weight": 0,
    "se_reduce.weight": 1,
    "se_expand.weight": 0,
    "se_expand.bias": 0,
    "project.weight": 1,
}

Selection = tuple[int, Tensor]
"""The axis of a parameter that is elastic, and the indices along it that are in use."""


class ElasticInvertedResidual(nn.Module):
    """``InvertedResidual`` at any width up to that of ``widest``.

    Attributes:
        active: Bool ``(widest.width,)``: the channels in use.
    """

    active: Tensor

    def __init__(self, widest: InvertedResidual, *, width: int) -> None:
        super().__init__()
        self.spec = widest
        full = widest.width
        self.expand = nn.Conv2d(widest.in_channels, full, 1, bias=False)
        self.depthwise = nn.Conv2d(
            full,
            full,
            widest.kernel,
            widest.stride,
            widest.kernel // 2,
            groups=full,
            bias=False,
        )
        if widest.se_channels:
            self.se_reduce = nn.Conv2d(full, widest.se_channels, 1)
            self.se_expand = nn.Conv2d(widest.se_channels, full, 1)
        self.project = nn.Conv2d(full, widest.out_channels, 1, bias=False)
        self.residual = widest.stride == 1 and widest.in_channels == widest.out_channels
        self.register_buffer("active", torch.arange(full) < width)

    @property
    def width(self) -> int:
        return int(self.active.sum())

    def set_width(self, width: int) -> None:
        """Keep the channels of largest L1 norm of their depthwise kernel.

        A shrinking block keeps the best of its channels; a growing one keeps all and adds the
        best of the others, as they were when last in use.
        """
        norms = self.depthwise.weight.detach().abs().sum(dim=(1, 2, 3))  # (widest,)
        if width >= self.width:
            norms = norms + self.active * (norms.max() + 1)
        else:
            norms = torch.where(self.active, norms, -1.0)
        kept = torch.zeros_like(self.active)
        kept[norms.topk(width).indices] = True
        self.active.copy_(kept)

    def selections(self) -> dict[nn.Parameter, Selection]:
        """For every elastic parameter, which slices of it are in use; none at full width."""
        if bool(self.active.all()):
            return {}
        index = self.active.nonzero().flatten()
        return {
            parameter: (_ELASTIC_AXIS[name], index)
            for name, parameter in self.named_parameters()
            if name in _ELASTIC_AXIS
        }

    def slice_parameters(self) -> dict[str, Tensor]:
        """Parameters of the rebuilt block of the present width, by the renderer's names."""
        index = self.active.nonzero().flatten()
        return {
            name: parameter.detach().index_select(_ELASTIC_AXIS[name], index)
            if name in _ELASTIC_AXIS
            else parameter.detach().clone()
            for name, parameter in self.named_parameters()
        }

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        index = None if bool(self.active.all()) else self.active.nonzero().flatten()

        def used(parameter: Tensor, axis: int) -> Tensor:
            return parameter if index is None else parameter.index_select(axis, index)

        activation: Activation = self.spec.activation
        act = _ACTIVATIONS[activation]
        y = F.conv2d(x, used(self.expand.weight, 0))
        y = act(_batch_norm(y), inplace=True)
        kernel = used(self.depthwise.weight, 0)
        y = F.conv2d(
            y, kernel, stride=self.spec.stride, padding=self.spec.kernel // 2, groups=len(kernel)
        )
        y = act(_batch_norm(y), inplace=True)
        if self.spec.se_channels:
            assert self.se_expand.bias is not None
            gate = F.adaptive_avg_pool2d(y, 1)
            gate = act(F.conv2d(gate, used(self.se_reduce.weight, 1), self.se_reduce.bias))
            gate = F.conv2d(gate, used(self.se_expand.weight, 0), used(self.se_expand.bias, 0))
            y = y * gate.sigmoid()
        y = _batch_norm(F.conv2d(y, used(self.project.weight, 1)))
        return y + x if self.residual else y


def _batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True, eps=NORM_EPSILON)
