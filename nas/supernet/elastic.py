"""An inverted residual of elastic width: one set of weights; a width uses the first channels.

Parameters have the names and the layout of the renderer's module of the widest block. The channels
in use come first, so a narrower block is a view of the weights. ``slice_parameters`` has the same
names and values as the state of the rebuilt narrower block. A change of width reorders the
channels. Batch norms use the batch's statistics and have no parameters, as in TF-NAS's supernet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks import InvertedResidual
from latbench.blocks.graph import NORM_EPSILON, Activation
from nas.supernet.depthwise import depthwise
from nas.supernet.pointwise import pointwise

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

Selection = tuple[int, int]
"""The axis of a parameter that is elastic, and how many of its first slices are in use."""

KeptChannels = Literal["all", "in-use"]
"""Channels that a new width takes: the strongest of all, or those in use before any others."""

Order = tuple[int, Tensor]
"""The axis of a parameter along which slices were moved, and where each came from."""


class ElasticInvertedResidual(nn.Module):
    """``InvertedResidual`` at any width up to that of ``widest``."""

    in_use: Tensor  # the width, as checkpoints store it; it is never read back from a GPU

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
        self._width = width
        self.register_buffer("in_use", torch.tensor(width))
        self.register_load_state_dict_post_hook(_read_width)  # type: ignore[no-untyped-call]

    @property
    def width(self) -> int:
        """Number of channels in use."""
        return self._width

    @torch.no_grad()
    def set_width(self, width: int, keep: KeptChannels = "all") -> dict[nn.Parameter, Order]:
        """Set the width; keep the channels whose depthwise kernels have the largest L1 norm.

        Channels that come back into use have the weights that they last had.

        Args:
            width: Number of channels to use. The current width changes nothing.
            keep: ``all``, as in TF-NAS's code, compares all channels; with ``in-use`` a shrinking
                block keeps the best of those in use, a growing one keeps them all and adds the
                best of the others.

        Returns:
            How slices of parameters were moved. The optimiser's state must be moved in the same
            way.
        """
        if width == self.width:
            return {}
        norms = self.depthwise.weight.abs().sum(dim=(1, 2, 3))  # (widest,)
        if keep == "in-use" and width > self.width:
            norms[: self.width] += norms.max() + 1
        elif keep == "in-use":
            norms[self.width :] = -1.0
        kept = norms.topk(width).indices.sort().values
        self.use_first(width)
        if bool((kept == torch.arange(width, device=kept.device)).all()):
            return {}
        left = torch.ones_like(norms, dtype=torch.bool)
        left[kept] = False
        order = torch.cat([kept, left.nonzero().flatten()])
        moved: dict[nn.Parameter, Order] = {}
        for name, parameter in self._elastic():
            axis = _ELASTIC_AXIS[name]
            parameter.copy_(parameter.index_select(axis, order))
            moved[parameter] = (axis, order)
        return moved

    def use_first(self, width: int) -> None:
        """Use the first channels; none is moved."""
        self._width = width
        self.in_use.fill_(width)

    def selections(self, width: int | None = None) -> dict[nn.Parameter, Selection]:
        """The slices of each elastic parameter that a width uses; empty at full width.

        Args:
            width: Number of channels; the current width if None.
        """
        width = self.width if width is None else width
        if width == self.spec.width:
            return {}
        return {p: (_ELASTIC_AXIS[name], width) for name, p in self._elastic()}

    def slice_parameters(self, width: int | None = None) -> dict[str, Tensor]:
        """Parameters of the rebuilt block of a width; the current width if None.

        They have the renderer's names and hold the first channels.
        """
        width = self.width if width is None else width
        return {
            name: parameter.detach().narrow(_ELASTIC_AXIS[name], 0, width).clone()
            if name in _ELASTIC_AXIS
            else parameter.detach().clone()
            for name, parameter in self.named_parameters()
        }

    def _elastic(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.named_parameters() if n in _ELASTIC_AXIS)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``.

        Args:
            x: Input.
            width: Number of first channels to compute; the current width if None.
        """
        width = self.width if width is None else width

        def used(parameter: Tensor, axis: int) -> Tensor:
            return parameter if width == self.spec.width else parameter.narrow(axis, 0, width)

        activation: Activation = self.spec.activation
        act = _ACTIVATIONS[activation]
        y = pointwise(x, used(self.expand.weight, 0))
        y = act(_batch_norm(y), inplace=True)
        y = depthwise(y, used(self.depthwise.weight, 0), self.spec.stride)
        y = act(_batch_norm(y), inplace=True)
        if self.spec.se_channels:
            assert self.se_expand.bias is not None
            gate = F.adaptive_avg_pool2d(y, 1)
            reduced = pointwise(gate, used(self.se_reduce.weight, 1), self.se_reduce.bias)
            bias = used(self.se_expand.bias, 0)
            gate = pointwise(act(reduced), used(self.se_expand.weight, 0), bias)
            y = y * gate.sigmoid()
        y = _batch_norm(pointwise(y, used(self.project.weight, 1)))
        return y + x if self.residual else y


def _read_width(block: nn.Module, _: object) -> None:
    assert isinstance(block, ElasticInvertedResidual)
    block._width = int(block.in_use)


def _batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True, eps=NORM_EPSILON)
