"""The architecture generator of SGNAS (Huang & Chu, CVPR 2021): budgets in, logits out.

It is a small convolutional network over the plane of all decisions. Glossary, for N budgets:

    L, W      layers, width of the plane: choices of all decisions of a layer, side by side
    prior     a known architecture near the budget, one-hot, ``(N, L, W)``
    condition vector of the request, ``(N, K)``, spread over the plane as K constant maps

The condition of the published network is one number, repeated in ten maps. Here a condition may be
any vector, so the same network also serves several devices and kinds of budget. The network does
not depend on the meaning of the plane (``nas.generator.planes``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32  # channels of all maps inside the network


class GeneratorNetwork(nn.Module):
    """Logits of all choices from conditions and priors.

    Every convolution is 3x3 with zero padding. Only the last one has a bias. Parameters have their
    published names and their published initial values: He's normal initialisation by fan-out for
    weights, zero for the bias. With torch's default initial values the budget has almost no effect:
    logits at the two ends of the trained range then differ by a standard deviation of 0.01,
    compared to 2 with these values.

    Args:
        conditions: Length K of a condition.
    """

    def __init__(self, conditions: int) -> None:
        super().__init__()
        self.conditions = conditions
        self.hc_head = nn.Sequential(_ConvReLU(conditions), _ConvReLU(WIDTH), _ConvReLU(WIDTH))
        self.bb_head = nn.Sequential(_ConvReLU(1), _ConvReLU(WIDTH))
        self.head = _ConvReLU(WIDTH)
        names = ("block1", "block2", "block3")
        self.body = nn.Sequential(OrderedDict((name, _ConvReLU(WIDTH)) for name in names))
        self.tail = nn.Sequential(nn.Conv2d(WIDTH, 1, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, conditions: Tensor, priors: Tensor, which: Tensor) -> Tensor:
        """Logits ``(N, L, W)``.

        Args:
            conditions: Conditions, ``(N, K)``.
            priors: The distinct priors, ``(priors, L, W)``.
            which: Index of each budget's prior, ``(N,)``.
        """
        known = self.bb_head(_channels_last(priors[:, None]))  # (priors, WIDTH, L, W)
        planes = self.condition_planes(conditions, *priors.shape[1:]) + known[which]
        logits = self.tail(self.body(self.head(planes)) + planes)
        return cast(Tensor, logits)[:, 0]

    def condition_planes(self, conditions: Tensor, layers: int, plane: int) -> Tensor:
        """``hc_head`` of constant maps, ``(N, WIDTH, L, W)``.

        After n convolutions a constant map is still constant, except for places within a distance
        of n from the border; their values depend only on that distance. So the head computes a
        smaller map, a tenth of the plane, and its middle is repeated. The values are the same.
        """
        reach = len(self.hc_head)
        shortest = 2 * reach + 1
        maps = conditions[:, :, None, None]
        maps = maps.expand(-1, -1, min(layers, shortest), min(plane, shortest))
        found = cast(Tensor, self.hc_head(_channels_last(maps)))
        if found.device.type != "cpu":  # without a look-up there are no indices to send
            return _stretched(_stretched(found, layers, 2, reach=reach), plane, 3, reach=reach)
        rows, columns = _by_distance(layers, reach), _by_distance(plane, reach)
        return found[:, :, rows[:, None], columns]


class _ConvReLU(nn.Module):
    """3x3 convolution and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


def _by_distance(length: int, reach: int) -> Tensor:
    """Map every place of a line to its place in the shortest line with the same borders."""
    shortest = min(length, 2 * reach + 1)
    places = torch.arange(length)
    return torch.minimum(places, (places - length + shortest).clamp(min=min(reach, shortest - 1)))


def _stretched(maps: Tensor, length: int, axis: int, *, reach: int) -> Tensor:
    """Stretch maps of the shortest length to the full length, by repeating their middle."""
    short = maps.shape[axis]
    if short == length:
        return maps
    sizes = list(maps.shape)
    sizes[axis] = length - 2 * reach
    middle = maps.narrow(axis, reach, 1).expand(sizes)
    ends = maps.narrow(axis, 0, reach), maps.narrow(axis, short - reach, reach)
    return torch.cat([ends[0], middle, ends[1]], dim=axis)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
