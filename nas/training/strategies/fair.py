"""Strict fairness (FairNAS: Chu et al., ICCV 2021): every operation trained once in each step."""

from __future__ import annotations

import torch

from nas.latency.relaxation import Relaxed
from nas.training.strategies.base import Strategy, one_path, random_depths


class StrictFairness(Strategy):
    """K paths a step, in every layer a permutation of its K operations; one update for all.

    Where layers have different numbers of operations K is the largest, and a layer of fewer goes
    on with another permutation: it is fair over as many steps as that takes. Elastic depths are
    drawn for each path; the layers beyond are not trained by it.
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
