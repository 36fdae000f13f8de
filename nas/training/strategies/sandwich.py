"""The sandwich rule (Yu & Huang, ICCV 2019): the smallest, the largest and random networks."""

from __future__ import annotations

from dataclasses import replace

import torch

from nas.latency.relaxation import Relaxed, one_hot
from nas.spaces import Architecture, SearchSpace
from nas.training.strategies.base import Strategy, random_path

RANDOM_PATHS = 2  # random ones among the four paths of a step, as published


class SandwichRule(Strategy):
    """Every step trains the network with the fewest MACs, the one with the most, and two random
    ones.

    All learn from the labels. The published in-place distillation, where the others learn from the
    largest network, is left out: strategies choose what is trained, criteria define the loss.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self._ends = [_sized(space, space.largest()), _sized(space, space.smallest())]

    def draw(self, rng: torch.Generator, progress: float) -> list[Relaxed]:
        return [*self._ends, *(random_path(self.space, rng) for _ in range(RANDOM_PATHS))]


def _sized(space: SearchSpace, architecture: Architecture) -> Relaxed:
    """The path of an architecture, its elastic operations at the architecture's widths."""
    widths = {
        (s, i, space.stages[s][i].ops.index(choice.op)): choice.width
        for s, stage in enumerate(architecture.stages)
        for i, choice in enumerate(stage)
        if choice.width is not None
    }
    return replace(one_hot(space, architecture), widths=widths)
