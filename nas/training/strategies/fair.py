"""Strict fairness (FairNAS: Chu et al., ICCV 2021): every operation trained once in each step."""

from __future__ import annotations

import torch

from nas.latency.relaxation import Relaxed
from nas.training.strategies.base import Strategy, one_path, random_depths


class StrictFairness(Strategy):
    """K paths a step: each layer deals its K operations in random order; one update for all paths.

    If layers have different numbers of operations, K is the largest number. A layer with fewer
    operations continues with another permutation, so it is fair over several steps. An elastic
    depth is drawn for each path; the path does not train the layers beyond it.
    """

    def draw(self, rng: torch.Generator, progress: float) -> list[Relaxed]:
        most = max(len(layer.ops) for layer in self.space.layers)
        orders = [self._order(len(layer.ops), most, rng) for layer in self.space.layers]
        return [
            one_path(self.space, [order[k] for order in orders], random_depths(self.space, rng))
            for k in range(most)
        ]

    def _order(self, ops: int, length: int, rng: torch.Generator) -> list[int]:
        rounds = [torch.randperm(ops, generator=rng) for _ in range(-(-length // ops))]
        return torch.cat(rounds)[:length].tolist()
