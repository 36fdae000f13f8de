"""The sandwich rule (Yu & Huang, ICCV 2019): the smallest, the largest and some in between."""

from __future__ import annotations

import torch

from nas.relaxation import Relaxed, one_hot
from nas.spaces import SearchSpace
from nas.training.strategies.base import Strategy, random_path

RANDOM_PATHS = 2  # of the four paths a step, as published


class SandwichRule(Strategy):
    """The networks of fewest and of most MACs and two random ones in every step.

    All learn from the labels. The published in-place distillation, in which the others learn
    from the largest, is left out: strategies say what is trained, criteria how.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self._ends = [one_hot(space, space.largest()), one_hot(space, space.smallest())]

    def draw(self, rng: torch.Generator, progress: float) -> list[Relaxed]:
        return [*self._ends, *(random_path(self.space, rng) for _ in range(RANDOM_PATHS))]
