"""The unified supernet of SGNAS (Huang & Chu, CVPR 2021).

Its layers are unified blocks (``nas.supernet.unified_blocks``). The weights of all networks (83
distinct blocks in each of 19 layers, 10^36 in all) are those of six full sub-blocks a layer.

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

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from latbench.render.torch import NetworkModule, render_torch
from nas.spaces import PLAIN, SearchSpace
from nas.spaces.sgnas import MixLayer, architecture_of
from nas.supernet.candidates import initialise, modules_of
from nas.supernet.frozen import FrozenSupernet
from nas.supernet.norms import RunningStatistics
from nas.supernet.unified_blocks import UnifiedBlock

Path = Sequence[Sequence[int]]
"""A choice for every sub-block: ``(layers, 6)``."""


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
        return FrozenSupernet(list(self.stem), self._blocks(), list(self.tail))

    def _blocks(self) -> list[UnifiedBlock]:
        return [cast(UnifiedBlock, block) for block in self.layers]

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
        for block in self._blocks():
            block.start_alike(correlation)

    def cut(self, path: Path) -> NetworkModule:
        """The network of a path, with copies of the weights and statistics."""
        with torch.random.fork_rng(devices=[]):  # random weights that are all replaced
            network = NetworkModule(self.space.lower(architecture_of(self.space, path)))
        network.to(next(self.parameters()).device)
        blocks = [
            *(block.state_dict() for block in self.stem),
            *(block.network_state(row) for block, row in zip(self._blocks(), path, strict=True)),
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


def unified_supernet(space: SearchSpace, *, seed: int, alike: float = 0.0) -> UnifiedSupernet:
    """A new supernet, channels last.

    Args:
        space: A plain space whose layers are unified blocks.
        seed: Seed of the initial weights.
        alike: Correlation of the initial weights of a layer's sub-blocks; 0 for independent ones.

    Raises:
        InvalidValueError: The space is not of this kind.
    """
    made = UnifiedSupernet(space, seed=seed).to(memory_format=torch.channels_last)
    if alike:
        made.start_alike(alike)
    return made
