"""A unified block of SGNAS: its parameters, its two forward passes, and a path's network.

A layer expands its input to six sub-blocks of C_in channels; each has one of three depthwise
kernels or is skipped; a projection follows. Every choice has its own batch norms after the
expansion and after the depthwise kernel. The batch norm after the projection is selected by the
number of skipped sub-blocks (it is switchable).

The forward pass of a path is in ``nas.supernet.unified_path``, that of probabilities in
``nas.supernet.unified_mixture``. ``nas.supernet.unified_supernet`` joins the blocks and says where
they differ from the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks.graph import NORM_EPSILON
from nas.spaces.sgnas import KERNELS, SKIP, SUB_BLOCKS, MixLayer
from nas.supernet.fused import MOMENTUM
from nas.supernet.norms import RunningStatistics, side_by_side
from nas.supernet.similar_start import correlate
from nas.supernet.sub_blocks import SubBlock, running_norm
from nas.supernet.unified_mixture import THRESHOLD, mixed
from nas.supernet.unified_path import along_path


class UnifiedBlock(nn.Module):
    """One layer: six sub-blocks between an expansion and a projection."""

    def __init__(self, layer: MixLayer) -> None:
        super().__init__()
        channels, out_channels = layer.in_channels, layer.out_channels
        self.stride = layer.stride
        self.residual = layer.stride == 1 and channels == out_channels
        self.sub_blocks = nn.ModuleList(SubBlock(channels, out_channels) for _ in range(SUB_BLOCKS))
        self.norms = nn.ModuleList(running_norm(out_channels) for _ in range(SUB_BLOCKS))

    def sub_block(self, number: int) -> SubBlock:
        """A sub-block."""
        return cast(SubBlock, self.sub_blocks[number])

    def every_sub_block(self) -> list[SubBlock]:
        """All sub-blocks, in their order."""
        return [cast(SubBlock, sub) for sub in self.sub_blocks]

    def switchable_norm(self, skips: int) -> nn.BatchNorm2d:
        """The batch norm after the projection for a number of skipped sub-blocks."""
        return cast(nn.BatchNorm2d, self.norms[skips])

    def forward(
        self,
        x: Tensor,
        choices: Sequence[int] | Tensor,
        statistics: RunningStatistics | None = None,
    ) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out_channels, H / stride, W / stride)``.

        Args:
            x: Channels last.
            choices: One choice for each sub-block; or probabilities ``(6, 4)``.
            statistics: Collects batch statistics on a GPU; the caller updates the running
                statistics with them. If None, they are updated here.

        Raises:
            ValueError: Every sub-block is skipped.
        """
        if isinstance(choices, Tensor):
            y, skips = self._mixed(x, choices)
        else:
            skips = sum(c == SKIP for c in choices)
            _require_active(skips < len(choices))
            seen = RunningStatistics() if statistics is None else statistics
            y = along_path(
                x,
                self.every_sub_block(),
                choices,
                stride=self.stride,
                training=self.training,
                statistics=seen,
            )
            if statistics is None:
                seen.update()
        norm = self.switchable_norm(min(skips, SUB_BLOCKS - 1))
        y = F.batch_norm(
            y,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            self.training,
            MOMENTUM,
            NORM_EPSILON,
        )
        return y + x if self.residual else y

    def _mixed(self, x: Tensor, probabilities: Tensor) -> tuple[Tensor, int]:
        """The mixture before the switchable norm, and the rounded expected number of skips."""
        rows = probabilities.tolist()  # waits for a GPU
        active = [[c for c in range(SKIP) if row[c] > THRESHOLD] for row in rows]
        _require_active(any(active))
        y = mixed(
            x,
            self.every_sub_block(),
            probabilities,
            active=active,
            stride=self.stride,
            training=self.training,
        )
        return y, round(sum(row[SKIP] for row in rows))  # half to even

    def start_alike(self, correlation: float) -> None:
        """As ``UnifiedSupernet.start_alike``."""
        first, *others = self.every_sub_block()
        for sub in others:
            for own, model in zip(sub.convolutions(), first.convolutions(), strict=True):
                correlate(own, model, correlation)
        for sub in (first, *others):
            smallest, *larger = (sub.choice(c).weight for c in range(len(KERNELS)))
            for kernel in larger:
                frame = (kernel.shape[2] - smallest.shape[2]) // 2
                kernel.copy_(F.pad(smallest, [frame] * 4))
        if self.residual:
            for norm in self.norms:
                nn.init.zeros_(cast(nn.BatchNorm2d, norm).weight)

    def network_state(self, row: Sequence[int]) -> dict[str, Tensor]:
        """State of the rendered block of a path's choices, under the block's parameter names.

        The network has its kernels in ascending order, sub-blocks of equal kernels next to each
        other.
        """
        order = sorted((b for b, c in enumerate(row) if c != SKIP), key=lambda b: row[b])
        subs = [self.sub_block(b) for b in order]
        choices = [s.choice(row[b]) for s, b in zip(subs, order, strict=True)]
        state: dict[str, Tensor] = {}
        if len(order) > 1:
            state["expand.weight"] = torch.cat([s.expand.weight for s in subs])
            state |= _norm_state("expand_norm", [s.expand_norm for s in subs])
        for c in sorted({row[b] for b in order}):
            kernels = [
                k.weight.detach() for k, b in zip(choices, order, strict=True) if row[b] == c
            ]
            state[f"depthwise_k{KERNELS[c]}.weight"] = torch.cat(kernels)
        norms = [k.bare if len(order) == 1 else k.norm for k in choices]
        state |= _norm_state("depthwise_norm", norms)
        state["project.weight"] = torch.cat([s.project.weight.detach() for s in subs], dim=1)
        switched = self.switchable_norm(SUB_BLOCKS - len(order))
        state |= _norm_state("project_norm", [switched])
        return {name: value.detach().clone() for name, value in state.items()}


def _require_active(active: bool) -> None:
    if not active:
        raise ValueError("every sub-block of a layer is skipped: keep at least one")


def _norm_state(name: str, norms: Sequence[nn.BatchNorm2d]) -> dict[str, Tensor]:
    mean, variance, gain, bias = side_by_side(norms)
    values = {"weight": gain, "bias": bias, "running_mean": mean, "running_var": variance}
    return {f"{name}.{key}": value for key, value in values.items()}
