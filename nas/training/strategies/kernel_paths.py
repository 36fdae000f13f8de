"""Paths and relaxations of unified supernets (SGNAS, Huang & Chu, CVPR 2021).

A path of a unified supernet has a choice for every sub-block of every layer: a kernel or a skip.
``FairPaths`` draws them as Section 3.2 of the paper does: a step trains four paths. In every layer
their expansions are drawn without replacement from 2..6, and the sub-blocks that are active at
random. Where this differs from the published code:

* **Kernels are fair.** Every sub-block takes its kernels from a shuffled list of three, and
  shuffles again when the list is empty: after any number of uses, two kernels differ by at most one
  use. Four is not a multiple of three, so lists continue from step to step. (Published: one order
  for a step's four paths; its first kernel is used twice.)
* **Expansion 1 is trained.** It can be chosen, but the published code never trains it. In a layer
  it replaces one of the four expansions with probability ``BARE``: once in five steps, a quarter as
  often as each of the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from nas.spaces import SearchSpace
from nas.spaces.sgnas import CHOICES, KERNELS, SKIP, SUB_BLOCKS
from nas.training.strategies.base import DifferentiableStrategy, Relaxation, Strategy

PATHS = 4  # paths per step
BARE = 0.2
_WIDE = range(2, SUB_BLOCKS + 1)


class FairPaths:
    """Draws the paths of one step after another.

    Args:
        layers: Number of layers of the supernet.
        rng: Generator of all draws.

    Attributes:
        decks: Kernels left to use, by layer and sub-block.
    """

    def __init__(self, layers: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.decks: list[list[list[int]]] = [[[] for _ in range(SUB_BLOCKS)] for _ in range(layers)]

    def step(self) -> list[list[list[int]]]:
        """Four paths: a choice for every sub-block, ``(4, layers, 6)``."""
        paths: list[list[list[int]]] = [[] for _ in range(PATHS)]
        for decks in self.decks:
            for path, expansion in zip(paths, self._expansions(), strict=True):
                active = self.rng.permutation(SUB_BLOCKS)[:expansion]
                row = [SKIP] * SUB_BLOCKS
                for b in active:
                    row[b] = self._deal(decks[b])
                path.append(row)
        return paths

    def _expansions(self) -> list[int]:
        drawn = [int(e) for e in self.rng.permutation(_WIDE)[:PATHS]]
        if self.rng.random() < BARE:
            drawn[int(self.rng.integers(PATHS))] = 1
        return drawn

    def _deal(self, deck: list[int]) -> int:
        if not deck:
            deck.extend(int(c) for c in self.rng.permutation(len(KERNELS)))
        return deck.pop()


Path = list[list[int]]
"""A choice for every sub-block: ``(layers, 6)``."""


class UniformKernels(Strategy):
    """One path a step. Every layer draws an expansion, with the frequencies of the fair paths, then
    the active sub-blocks and their kernels uniformly.

    In OSNASLib every sub-block draws a kernel or a skip. Then 83 % of the expansions are 4 to 6 and
    one in 230 is 1, so most networks for short latencies score like chance.
    """

    def draw(self, rng: torch.Generator, progress: float) -> list[Path]:
        return [[_random_row(rng) for _ in self.space.layers]]


class FairKernels(Strategy):
    """The fair paths of SGNAS, four a step. Checkpoints store the lists of kernels left to use."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self._paths = FairPaths(len(space.layers), np.random.default_rng(0))

    def draw(self, rng: torch.Generator, progress: float) -> list[Path]:
        self._paths.rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=rng)))
        return self._paths.step()

    def get_extra_state(self) -> list[list[list[int]]]:
        return [[list(deck) for deck in decks] for decks in self._paths.decks]

    def set_extra_state(self, state: list[list[list[int]]]) -> None:
        self._paths.decks = [[list(deck) for deck in decks] for decks in state]


class FreshFairKernels(Strategy):
    """The fair paths of SGNAS, with new lists of kernels in every epoch; checkpoints need none.

    Args:
        space: A space of unified blocks.
        seed: Seed of the paths, together with the epoch.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(space)
        self._seed = seed
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng([self._seed, epoch])
        self._paths = FairPaths(len(self.space.layers), rng)

    def draw(self, rng: torch.Generator, progress: float) -> list[Path]:
        return self._paths.step()


class SandwichKernels(Strategy):
    """The smallest path, the largest and two random ones (Yu & Huang, ICCV 2019)."""

    def draw(self, rng: torch.Generator, progress: float) -> list[Path]:
        smallest = [0] + [SKIP] * (SUB_BLOCKS - 1)
        largest = [len(KERNELS) - 1] * SUB_BLOCKS
        ends = [[list(row) for _ in self.space.layers] for row in (smallest, largest)]
        between = [[_random_row(rng) for _ in self.space.layers] for _ in range(PATHS - len(ends))]
        return ends + between


class RelaxedKernels(Relaxation):
    """A mixture of kernels and skips for every sub-block, with trained weights.

    Args:
        space: A space of unified blocks.
        inner: Strategy that turns logits into weights, such as softmax or Gumbel softmax.

    Attributes:
        logits: Logits of the choices of every sub-block, ``(layers, 6, 4)``, zero at first. The
            first sub-block of a layer is never skipped, and its last logit is not used.
    """

    def __init__(self, space: SearchSpace, inner: DifferentiableStrategy) -> None:
        super().__init__(space)
        self._weights = inner.weights
        self.logits = nn.Parameter(torch.zeros(len(space.layers), SUB_BLOCKS, CHOICES))

    def relaxed(self, rng: torch.Generator, progress: float) -> Tensor:
        """Weights of all choices, ``(layers, 6, 4)``; each sub-block's sum to 1."""
        return self._each_row(lambda logits: self._weights(logits, rng, progress))

    @torch.no_grad()
    def draw(self, rng: torch.Generator, progress: float) -> list[Tensor]:
        return [self.relaxed(rng, progress)]

    def probabilities(self) -> Tensor:
        """Softmax of the logits, ``(layers, 6, 4)``, differentiable."""
        return self._each_row(lambda logits: logits.softmax(0))

    def _each_row(self, weights: Callable[[Tensor], Tensor]) -> Tensor:
        layers = []
        for rows in self.logits.unbind():
            first = nn.functional.pad(weights(rows[0, :SKIP]), (0, 1))
            layers.append(torch.stack([first, *(weights(row) for row in rows[1:])]))
        return torch.stack(layers)


UNIFIED: dict[str, Callable[[SearchSpace], Strategy]] = {
    "uniform": UniformKernels,
    "fair": FairKernels,
    "sandwich": SandwichKernels,
}
"""Strategies that draw paths of unified supernets, under the names used for separate operations."""


def _random_row(rng: torch.Generator) -> list[int]:
    """Choices of a layer's sub-blocks."""
    is_bare = float(torch.rand(1, generator=rng)) < BARE / PATHS
    expansion = 1 if is_bare else int(torch.randint(_WIDE.start, _WIDE.stop, (1,), generator=rng))
    active = torch.randperm(SUB_BLOCKS, generator=rng)[:expansion]
    row = torch.full((SUB_BLOCKS,), SKIP)
    row[active] = torch.randint(len(KERNELS), active.shape, generator=rng)
    choices: list[int] = row.tolist()
    return choices
