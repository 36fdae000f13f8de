"""The unified supernet of SGNAS (Huang & Chu, CVPR 2021).

A layer expands its input to six sub-blocks of C_in channels; each has one of three depthwise
kernels or is skipped; a projection follows. Every choice has its own batch norms after the
expansion and after the depthwise kernel. The batch norm after the projection is selected by the
number of skipped sub-blocks. The weights of all 10^69 networks are those of six full sub-blocks a
layer.

One forward pass serves two modes. For a path, only the active sub-blocks are computed. For
probabilities (soft mode), a sub-block is the sum of p_k times kernel k over p_k > 0.01, a skip adds
nothing, and the switchable batch norm is the one for the rounded expected number of skips.

What it has in common with the rendered networks, and where it differs from the published code:

* A path equals its rendered network exactly, in training and in evaluation: batch norm works by
  channel, so the concatenated norms of the choices are the network's one norm, and the switchable
  norm in use is the projection's. ``cut`` makes that network.
* A layer with one active sub-block has no expansion convolution, as in the network (published: the
  supernet keeps it, so the evaluated network is not the built one). Its depthwise kernels then have
  another input, so they have separate batch norms for that case (``bare``).
* A skip has no weights and takes no time (published: a dense convolution times zero).
* The expansion's batch norm is folded into its convolution in training too: mean and variance of a
  1x1 convolution's output follow from mean and covariance of its input, which has a sixth of the
  channels. That is exact, and saves two passes over the largest maps of the network.

Glossary:

    C        input channels of a layer
    choice   0, 1, 2: kernel 3, 5, 7 of a sub-block; 3: it is skipped
    e        expansion: number of active sub-blocks
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks.graph import NORM_EPSILON
from latbench.errors import InvalidValueError
from latbench.render.torch import NetworkModule, render_torch
from nas.spaces import PLAIN, SearchSpace
from nas.spaces.sgnas import KERNELS, SKIP, SUB_BLOCKS, MixLayer, architecture_of, path_of
from nas.supernet.candidates import initialise, modules_of
from nas.supernet.depthwise import depthwise, reaching
from nas.supernet.frozen import THRESHOLD, FrozenSupernet
from nas.supernet.fused import (
    MOMENTUM,
    expand_depthwise,
    frozen_mix,
    moments,
    norm_project,
    product,
    relu6,
)
from nas.supernet.norms import RunningStatistics, cat, folded, remember, side_by_side
from nas.supernet.precision import without_autocast

Path = Sequence[Sequence[int]]
"""A choice for every sub-block: ``(layers, 6)``."""

GPU_GROUP = 2
"""Largest number of sub-blocks with equal kernels that a GPU computes together. cuDNN takes some 20
ms to plan a convolution of another number of channels; more than two are rarely equal."""

FOLDED_VALUES = 100_000_000
"""A GPU folds the expansion's batch norm in training if a layer's expanded map has at least this
many values. The number is calculated, not measured: folding saves 7 passes over the map, of 2 bytes
a value at some 2.5 TB/s, and takes 50 calls of some 4 us for each of about 3 groups."""

__all__ = ["THRESHOLD", "Path", "UnifiedBlock", "UnifiedSupernet", "path_of"]


class UnifiedSupernet(nn.Module):
    """All architectures of a space of unified blocks.

    Args:
        space: A plain space (no squeeze-excite, ReLU6) whose layers are unified blocks.
        seed: Seed of the initial weights.

    Raises:
        InvalidValueError: The space is not of this kind.
    """

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        super().__init__()
        layers = [layer for layer in space.layers if isinstance(layer, MixLayer)]
        if len(layers) < len(space.layers):
            raise InvalidValueError(
                f"{space.name} has no unified blocks: choose sgnas or sgnas-proxyless"
            )
        if space.variant != PLAIN:
            raise InvalidValueError(
                f"a unified supernet is {PLAIN}, not {space.variant}: leave out --se and "
                "--activation here, and give them to the networks it finds"
            )
        self.space = space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules = modules_of("running")
            self.stem = nn.ModuleList(render_torch(spec, modules=modules) for spec in space.stem)
            self.layers = nn.ModuleList(UnifiedBlock(layer) for layer in layers)
            self.tail = nn.ModuleList(render_torch(spec, modules=modules) for spec in space.head)
            for module in (*self.stem.modules(), *self.tail.modules()):
                initialise(module, "he")

    def forward(self, images: Tensor, choices: Path | Tensor) -> Tensor:
        """``(N, 3, S, S)`` to logits ``(N, classes)``.

        Args:
            images: Channels last.
            choices: A path; or probabilities ``(layers, 6, 4)``. Published architecture steps
                take the latter in evaluation mode with frozen weights, which is the fast case.
        """
        if isinstance(choices, Tensor) and images.device.type != "cpu" and self._is_frozen():
            return self.frozen()(images, choices)
        return self.finish(self.begin(images), choices)

    def frozen(self) -> FrozenSupernet:
        """A copy of the current weights that computes mixtures fastest on a GPU."""
        return FrozenSupernet(self)

    def _is_frozen(self) -> bool:
        return not self.training and not any(p.requires_grad for p in self.parameters())

    def begin(self, images: Tensor) -> Tensor:
        """The part that all paths share: ``(N, 3, S, S)`` to the first layer's input."""
        x = images
        for block in self.stem:
            x = block(x)
        return x

    def finish(self, x: Tensor, choices: Path | Tensor) -> Tensor:
        """From the first layer's input to logits ``(N, classes)``; choices as in ``forward``."""
        statistics = RunningStatistics()
        for block, chosen in zip(self.layers, choices, strict=True):
            x = block(x, chosen, statistics)
        statistics.update()
        for block in self.tail:
            x = block(x)
        return x

    @torch.no_grad()
    def start_alike(self, correlation: float) -> None:
        """Make new weights with which all paths compute nearly the same function.

        With independent weights every path is a different random function, and a step that improves
        one path does not help the others: no path learns until all were trained often. Here the
        weights of a layer's sub-blocks are correlated with those of its first, kernels 5 and 7
        start as kernel 3 padded with zeros, and residual layers as identities. At correlation 1 all
        paths whose layers have an expansion are equal in training.

        Args:
            correlation: Correlation of equal weights of the first sub-block and another, 0 to 1.
        """
        for block in self.layers:
            cast(UnifiedBlock, block).start_alike(correlation)

    def cut(self, path: Path) -> NetworkModule:
        """The network of a path, with copies of the weights and statistics."""
        network = NetworkModule(self.space.lower(architecture_of(self.space, path)))
        network.to(next(self.parameters()).device)
        blocks = [
            *(block.state_dict() for block in self.stem),
            *(
                cast(UnifiedBlock, block).network_state(row)
                for block, row in zip(self.layers, path, strict=True)
            ),
            *(block.state_dict() for block in self.tail),
        ]
        state = {
            f"blocks.{i}.{name}": value
            for i, block in enumerate(blocks)
            for name, value in block.items()
        }
        missing, unexpected = network.load_state_dict(state, strict=False)
        wrong = [name for name in missing if not name.endswith("num_batches_tracked")] + unexpected
        if wrong:
            raise ValueError(
                f"parameter names of the supernet and the renderer differ: {', '.join(wrong)}"
            )
        return network.to(memory_format=torch.channels_last)


class UnifiedBlock(nn.Module):
    """One layer: six sub-blocks between an expansion and a projection."""

    def __init__(self, layer: MixLayer) -> None:
        super().__init__()
        channels, out_channels = layer.in_channels, layer.out_channels
        self.stride = layer.stride
        self.residual = layer.stride == 1 and channels == out_channels
        self.sub_blocks = nn.ModuleList(SubBlock(channels, out_channels) for _ in range(SUB_BLOCKS))
        self.norms = nn.ModuleList(_norm(out_channels) for _ in range(SUB_BLOCKS))  # by skips

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
            rows = choices.tolist()  # waits for a GPU
            active = [[c for c in range(SKIP) if row[c] > THRESHOLD] for row in rows]
            skips = round(sum(row[SKIP] for row in rows))  # half to even
        else:
            active = [[] if c == SKIP else [c] for c in choices]
            skips = sum(not row for row in active)
        expansion = sum(bool(row) for row in active)
        if not expansion:
            raise ValueError("every sub-block of a layer is skipped: keep at least one")
        trains = self.training and expansion > 1
        on_gpu = trains and x.device.type != "cpu" and not isinstance(choices, Tensor)
        seen = RunningStatistics() if statistics is None else statistics
        folds = not on_gpu or x.numel() * expansion >= FOLDED_VALUES
        inputs = moments(x) if trains and folds else None
        parts = []
        for chosen, members in _groups(active, at_most=GPU_GROUP if on_gpu else SUB_BLOCKS):
            group = [cast(SubBlock, self.sub_blocks[b]) for b in members]
            weights = None
            if isinstance(choices, Tensor):
                weights = [choices[members, c].repeat_interleave(x.shape[1]) for c in chosen]
            if on_gpu:
                part = self._train_on_gpu(x, group, chosen[0], inputs, seen)
            elif inputs is not None and weights is None:
                part = self._train_group(x, group, chosen[0], inputs)
            else:
                wide = x if expansion == 1 else self._expand(x, group, inputs)
                part = self._mix(wide, group, chosen, weights, bare=expansion == 1)
            parts.append(part)
        y = reduce(Tensor.add_, parts)
        if statistics is None:
            seen.update()
        norm = cast(nn.BatchNorm2d, self.norms[min(skips, SUB_BLOCKS - 1)])
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

    def start_alike(self, correlation: float) -> None:
        """As ``UnifiedSupernet.start_alike``."""
        first, *others = (cast(SubBlock, sub) for sub in self.sub_blocks)
        for sub in others:
            for own, model in zip(sub.convolutions(), first.convolutions(), strict=True):
                own.mul_(math.sqrt(1 - correlation**2)).add_(model, alpha=correlation)
        for sub in (first, *others):
            smallest, *larger = (cast(KernelChoice, choice).weight for choice in sub.choices)
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
        subs = [cast(SubBlock, self.sub_blocks[b]) for b in order]
        choices = [cast(KernelChoice, s.choices[row[b]]) for s, b in zip(subs, order, strict=True)]
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
        switched = cast(nn.BatchNorm2d, self.norms[SUB_BLOCKS - len(order)])
        state |= _norm_state("project_norm", [switched])
        return {name: value.detach().clone() for name, value in state.items()}

    def _expand(
        self, x: Tensor, group: Sequence[SubBlock], statistics: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Expansion of a group of sub-blocks, batch norm and ReLU6."""
        return relu6(F.conv2d(x, *self._expansion(x, group, statistics)))

    @without_autocast  # statistics and divisions by them
    def _expansion(
        self, x: Tensor, group: Sequence[SubBlock], statistics: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias of a group's expansion with its batch norm folded in."""
        weight = torch.cat([sub.expand.weight for sub in group]).flatten(1)  # (K, C)
        norms = [sub.expand_norm for sub in group]
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
        folded = (weight * scale[:, None])[:, :, None, None]
        return folded, bias - mean * scale

    def _train_group(
        self, x: Tensor, group: Sequence[SubBlock], choice: int, statistics: tuple[Tensor, Tensor]
    ) -> Tensor:
        """A group of equal kernels in training, expansion to projection."""
        members = [cast(KernelChoice, sub.choices[choice]) for sub in group]
        kernel = torch.cat([member.weight for member in members])
        y = expand_depthwise(
            x, *self._expansion(x, group, statistics), reaching(kernel, x), self.stride
        )
        return self._project(y, group, [member.norm for member in members])

    def _train_on_gpu(
        self,
        x: Tensor,
        group: Sequence[SubBlock],
        choice: int,
        inputs: tuple[Tensor, Tensor] | None,
        seen: RunningStatistics,
    ) -> Tensor:
        """Like ``_train_group``, with few calls: on small maps a GPU waits for calls.

        Folding the expansion's batch norm takes some fifty small calls and saves seven passes over
        the widest map, which is worthwhile only on the largest maps (``FOLDED_VALUES``).
        """
        members = [cast(KernelChoice, sub.choices[choice]) for sub in group]
        kernel = cat([member.weight for member in members])
        if inputs is not None:
            y = expand_depthwise(
                x, *self._expansion(x, group, inputs), reaching(kernel, x), self.stride
            )
        else:
            wide = product(x, cat([sub.expand.weight for sub in group]))
            wide = seen.norm_relu6(wide, [sub.expand_norm for sub in group])
            y = depthwise(wide, kernel, self.stride)
        y = seen.norm_relu6(y, [member.norm for member in members])
        return product(y, cat([sub.project.weight for sub in group], dim=1))

    def _project(
        self, y: Tensor, group: Sequence[SubBlock], norms: Sequence[nn.BatchNorm2d]
    ) -> Tensor:
        """Batch norm in training, ReLU6 and a group's projection."""
        mean, variance, gain, bias = side_by_side(norms)
        projection = torch.cat([sub.project.weight for sub in group], dim=1)
        out = norm_project(y, mean, variance, gain, bias, projection)
        remember(norms, mean, variance)
        return out

    def _mix(
        self,
        wide: Tensor,
        group: Sequence[SubBlock],
        chosen: Sequence[int],
        weights: Sequence[Tensor] | None,
        *,
        bare: bool,
    ) -> Tensor:
        """Depthwise choices of a group of sub-blocks, weighted and summed, and its projection."""
        projection = torch.cat([sub.project.weight for sub in group], dim=1)
        kernels, norms = [], []
        for c in chosen:
            members = [cast(KernelChoice, sub.choices[c]) for sub in group]
            kernels.append(torch.cat([member.weight for member in members]))
            norms.append([member.bare if bare else member.norm for member in members])
        if not self.training:
            inclusive = [folded(kernel, norm) for kernel, norm in zip(kernels, norms, strict=True)]
            frozen = not (
                projection.requires_grad or any(t.requires_grad for f in inclusive for t in f)
            )
            if weights is not None and frozen:
                return frozen_mix(
                    wide,
                    [reaching(kernel, wide) for kernel, _ in inclusive],
                    [bias for _, bias in inclusive],
                    weights,
                    projection,
                    self.stride,
                )
        if self.training and weights is None:
            return self._project(depthwise(wide, kernels[0], self.stride), group, norms[0])
        total: Tensor | None = None
        for i, kernel in enumerate(kernels):
            if self.training:
                y = _batch_norm(depthwise(wide, kernel, self.stride), norms[i], training=True)
            else:
                y = depthwise(wide, inclusive[i][0], self.stride) + inclusive[i][1][:, None, None]
            y = relu6(y)
            if weights is not None:
                y = y * weights[i][:, None, None]
            total = y if total is None else total + y
        assert total is not None
        return F.conv2d(total, projection)


class SubBlock(nn.Module):
    """C channels of a layer: expansion, a choice of depthwise kernels, projection."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, channels, 1, bias=False)
        self.expand_norm = _norm(channels)
        self.choices = nn.ModuleList(KernelChoice(channels, kernel) for kernel in KERNELS)
        self.project = nn.Conv2d(channels, out_channels, 1, bias=False)
        # He's normal initialisation by the fan-out of the whole convolutions, as published
        nn.init.normal_(self.expand.weight, std=math.sqrt(2 / (SUB_BLOCKS * channels)))
        nn.init.normal_(self.project.weight, std=math.sqrt(2 / out_channels))

    def convolutions(self) -> tuple[Tensor, ...]:
        """Weights of the expansion, the projection and the smallest kernel."""
        smallest = cast(KernelChoice, self.choices[0])
        return self.expand.weight, self.project.weight, smallest.weight


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
        self.norm = _norm(channels)
        self.bare = _norm(channels)


def _groups(
    active: Sequence[Sequence[int]], *, at_most: int
) -> list[tuple[tuple[int, ...], list[int]]]:
    """Groups of sub-blocks that are computed together, with the choices that they share.

    Args:
        active: Active choices of every sub-block.
        at_most: Largest number of sub-blocks in a group.
    """
    found = []
    for chosen in sorted({tuple(row) for row in active if row}):
        members = [b for b, row in enumerate(active) if tuple(row) == chosen]
        found += [(chosen, members[i : i + at_most]) for i in range(0, len(members), at_most)]
    return found


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON, momentum=MOMENTUM)


def _batch_norm(x: Tensor, norms: Sequence[nn.BatchNorm2d], *, training: bool) -> Tensor:
    mean, variance, gain, bias = side_by_side(norms)
    y = F.batch_norm(x, mean, variance, gain, bias, training, MOMENTUM, NORM_EPSILON)
    if training:
        remember(norms, mean, variance)
    return y


def _norm_state(name: str, norms: Sequence[nn.BatchNorm2d]) -> dict[str, Tensor]:
    mean, variance, gain, bias = side_by_side(norms)
    values = {"weight": gain, "bias": bias, "running_mean": mean, "running_var": variance}
    return {f"{name}.{key}": value for key, value in values.items()}
