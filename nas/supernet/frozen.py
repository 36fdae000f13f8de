"""A unified supernet with frozen weights that computes mixtures of all choices on a GPU.

Architecture steps train the choices. The weights are frozen, and the norms use running statistics.
``UnifiedSupernet`` leaves out choices of small probability. On a GPU the processor would have to
read the probabilities in every layer, and the GPU would wait for it. Here every choice is computed,
always in the same calls, and a probability of at most ``THRESHOLD`` counts as 0. The result is the
same, and nothing is read from the GPU. Tensors that depend on weights alone are computed once.

Two more decisions are made on the GPU: which of the switchable norms a layer uses, and whether it
has an expansion.

Glossary:

    C        input channels of a layer
    L, B     layers, sub-blocks
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks.graph import NORM_EPSILON
from nas.spaces.sgnas import SKIP, SUB_BLOCKS
from nas.supernet.depthwise import reaching
from nas.supernet.frozen_functions import frozen_expand, frozen_mix
from nas.supernet.fused import MOMENTUM
from nas.supernet.norms import folded, side_by_side
from nas.supernet.precision import computed_in
from nas.supernet.sub_blocks import SubBlockGroup
from nas.supernet.unified_blocks import UnifiedBlock
from nas.supernet.unified_mixture import THRESHOLD


class FrozenSupernet:
    """All choices of a unified supernet, weighted by probabilities.

    Args:
        stem: The layers before the first unified block, from images ``(N, 3, S, S)``.
        blocks: Unified blocks in evaluation mode with frozen weights, prepared here, once.
        head: The layers after the last unified block, to logits ``(N, classes)``.
    """

    def __init__(
        self,
        stem: Sequence[nn.Module],
        blocks: Sequence[UnifiedBlock],
        head: Sequence[nn.Module],
    ) -> None:
        self._stem, self._head = stem, head
        self._layers = [_FrozenBlock(block) for block in blocks]

    def __call__(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """``(N, 3, S, S)`` to logits ``(N, classes)``, differentiable by the probabilities.

        Args:
            images: Channels last.
            probabilities: Probabilities of choices ``(L, B, 4)``; the first sub-block of a layer
                is never skipped.
        """
        kernels = probabilities[..., :SKIP]
        weights = torch.where(kernels > THRESHOLD, kernels, torch.zeros_like(kernels))
        chosen = probabilities.detach()
        # published: the rounded expected number of skips, half to even
        skips = chosen[..., SKIP].sum(-1).round().long().clamp_(0, SUB_BLOCKS - 1)
        bare = (chosen[..., :SKIP] > THRESHOLD).any(-1).sum(-1) == 1  # (L,)
        x = images
        for block in self._stem:
            x = block(x)
        rows = zip(weights.unbind(), torch.split(skips, 1), torch.split(bare, 1), strict=True)
        for layer, row in zip(self._layers, rows, strict=True):
            x = layer(x, *row)
        for block in self._head:
            x = block(x)
        return x


class _FrozenBlock:
    """One layer, norms folded into its convolutions."""

    @torch.no_grad()
    def __init__(self, block: UnifiedBlock) -> None:
        group = SubBlockGroup(range(SUB_BLOCKS), range(SKIP), block.every_sub_block())
        self.stride, self.residual = block.stride, block.residual
        expand = folded(group.expansion(), group.expansion_norms())
        self.constants = _Typed([*expand, group.projection()])
        # two variants for the first channels, chosen without a branch: without an expansion only
        # the first sub-block is in use, and it has norms of its own
        usual: list[Tensor] = []
        bare: list[Tensor] = []
        for c in range(SKIP):
            first = group.sub_blocks[0].choice(c)
            whole = folded(group.kernel(c), group.kernel_norms(c))
            own = folded(first.weight, [first.bare])
            usual += whole
            bare += [torch.cat([a, b[len(a) :]]) for a, b in zip(own, whole, strict=True)]
        self.shapes = [value.shape for value in usual]
        self.kernels = _Typed([torch.stack([_joined(usual), _joined(bare)])])
        switchable = [block.switchable_norm(skips) for skips in range(SUB_BLOCKS)]
        self.norms = torch.stack([torch.cat(side_by_side([norm])) for norm in switchable])

    def __call__(self, x: Tensor, weights: Tensor, skips: Tensor, bare: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out_channels, H / stride, W / stride)``.

        Args:
            x: Channels last.
            weights: Weights of the kernels, ``(B, 3)``.
            skips: Number of the switchable norm, ``(1,)``.
            bare: Whether a single sub-block is active, ``(1,)``.
        """
        dtype = computed_in(x)
        expand, expand_bias, project = self.constants.of(dtype)
        wide = frozen_expand(x, expand, expand_bias, bare)
        (kernels,) = self.kernels.of(dtype)
        parts = torch.split(
            kernels.index_select(0, bare.long())[0], [shape.numel() for shape in self.shapes]
        )
        values = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        spread = weights.t()[:, :, None].expand(-1, -1, x.shape[1]).flatten(1)  # (3, B * C)
        y = frozen_mix(
            wide,
            [reaching(kernel, wide) for kernel in values[::2]],
            values[1::2],
            spread.unbind(),
            project,
            self.stride,
        )
        mean, variance, gain, bias = self.norms.index_select(0, skips)[0].chunk(4)
        y = F.batch_norm(y, mean, variance, gain, bias, False, MOMENTUM, NORM_EPSILON)
        return y + x if self.residual else y


class _Typed:
    """Tensors in each of the types that matrix products use, cast once."""

    def __init__(self, values: list[Tensor]) -> None:
        self._known = {values[0].dtype: values}
        self._values = values

    def of(self, dtype: torch.dtype) -> list[Tensor]:
        if dtype not in self._known:
            self._known[dtype] = [value.to(dtype) for value in self._values]
        return self._known[dtype]


def _joined(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])
