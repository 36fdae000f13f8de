"""Sub-blocks of a unified block: their parameters, and groups that are computed together.

A sub-block has a 1x1 convolution from the layer's C input channels to C channels, a choice of three
depthwise kernels, and its part of the layer's projection. Sub-blocks with the same active choices
are a group: their channels are concatenated, so each convolution of the group is one call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from latbench.blocks.graph import NORM_EPSILON
from nas.spaces.sgnas import KERNELS, SUB_BLOCKS
from nas.supernet.fused import MOMENTUM
from nas.supernet.norms import cat, remember, side_by_side
from nas.supernet.precision import without_autocast


class SubBlock(nn.Module):
    """C channels of a layer: expansion, a choice of depthwise kernels, projection."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, channels, 1, bias=False)
        self.expand_norm = running_norm(channels)
        self.choices = nn.ModuleList(KernelChoice(channels, kernel) for kernel in KERNELS)
        self.project = nn.Conv2d(channels, out_channels, 1, bias=False)
        # He's normal initialisation by the fan-out of the whole convolutions, as published
        nn.init.normal_(self.expand.weight, std=math.sqrt(2 / (SUB_BLOCKS * channels)))
        nn.init.normal_(self.project.weight, std=math.sqrt(2 / out_channels))

    def choice(self, number: int) -> KernelChoice:
        """The depthwise kernel of a choice."""
        return cast(KernelChoice, self.choices[number])

    def convolutions(self) -> tuple[Tensor, ...]:
        """Weights of the expansion, the projection and the smallest kernel."""
        return self.expand.weight, self.project.weight, self.choice(0).weight


class KernelChoice(nn.Module):
    """A depthwise kernel with its batch norms.

    Attributes:
        norm: Batch norm that follows an expansion.
        bare: Batch norm in a layer without expansion.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel, kernel))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (kernel * kernel * channels)))
        self.norm = running_norm(channels)
        self.bare = running_norm(channels)


@dataclass(frozen=True)
class SubBlockGroup:
    """Sub-blocks of a layer with the same active choices.

    Attributes:
        members: Numbers of the sub-blocks in their layer.
        choices: Active choices, the same for all of them.
        sub_blocks: The sub-blocks, G of them.
    """

    members: Sequence[int]
    choices: Sequence[int]
    sub_blocks: Sequence[SubBlock]

    def expansion(self) -> Tensor:
        """Weight of the 1x1 convolutions, ``(G * C, C, 1, 1)``."""
        return cat([sub.expand.weight for sub in self.sub_blocks])

    def expansion_norms(self) -> list[nn.BatchNorm2d]:
        """Batch norms after the 1x1 convolutions."""
        return [sub.expand_norm for sub in self.sub_blocks]

    def kernel(self, choice: int) -> Tensor:
        """Depthwise kernels of a choice, ``(G * C, 1, kernel, kernel)``."""
        return cat([sub.choice(choice).weight for sub in self.sub_blocks])

    def kernel_norms(self, choice: int, *, bare: bool = False) -> list[nn.BatchNorm2d]:
        """Batch norms after the kernels of a choice; ``bare`` ones if there is no expansion."""
        kernels = [sub.choice(choice) for sub in self.sub_blocks]
        return [kernel.bare if bare else kernel.norm for kernel in kernels]

    def projection(self) -> Tensor:
        """Weight of the part of the projection, ``(out_channels, G * C, 1, 1)``."""
        return cat([sub.project.weight for sub in self.sub_blocks], dim=1)

    @without_autocast  # statistics and divisions by them
    def folded_expansion(
        self, x: Tensor, statistics: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias of the expansion, with its batch norm folded in.

        Args:
            x: Input of the layer, ``(N, C, H, W)``.
            statistics: Moments of the input in training, which also update the running statistics;
                None uses the running statistics.
        """
        weight = self.expansion().flatten(1)  # (K, C)
        norms = self.expansion_norms()
        running_mean, running_var, gain, bias = side_by_side(norms)
        if statistics is None:
            mean, variance = running_mean, running_var
        else:
            centre, covariance = statistics
            mean = weight @ centre
            variance = ((weight @ covariance) * weight).sum(1).clamp(min=0)
            count = x.numel() // x.shape[1]
            with torch.no_grad():
                running_mean.lerp_(mean, MOMENTUM)
                running_var.lerp_(variance * (count / max(1, count - 1)), MOMENTUM)
            remember(norms, running_mean, running_var)
        scale = gain * (variance + NORM_EPSILON).rsqrt()
        return (weight * scale[:, None])[:, :, None, None], bias - mean * scale


def groups_of(
    sub_blocks: Sequence[SubBlock], active: Sequence[Sequence[int]], *, at_most: int = SUB_BLOCKS
) -> list[SubBlockGroup]:
    """Groups of sub-blocks, in the order of their choices.

    Args:
        sub_blocks: Sub-blocks of a layer.
        active: Active choices of every sub-block; none if it is skipped.
        at_most: Largest number of sub-blocks in a group.
    """
    found = []
    for chosen in sorted({tuple(row) for row in active if row}):
        members = [b for b, row in enumerate(active) if tuple(row) == chosen]
        for i in range(0, len(members), at_most):
            together = members[i : i + at_most]
            found.append(SubBlockGroup(together, chosen, [sub_blocks[b] for b in together]))
    return found


def running_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with running statistics, as the rendered networks have it."""
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON, momentum=MOMENTUM)
