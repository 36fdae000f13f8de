"""Strict fairness (FairNAS: Chu et al., ICCV 2021): every operation trained once in each step."""

from __future__ import annotations

from typing import Any

import torch

from nas.latency.relaxation import Relaxed
from nas.spaces import SearchSpace
from nas.training.strategies.base import Strategy, one_path, random_depths


class StrictFairness(Strategy):
    """K paths a step: each layer deals its K operations in random order; one update for all paths.

    If layers have different numbers of operations, K is the largest number. A layer with fewer
    operations continues with another permutation, and the next step with what is left of it, so it
    is fair over several steps. Checkpoints store what is left. An elastic depth is drawn for each
    path; the path does not train the layers beyond it.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self._left: list[list[int]] = [[] for _ in space.layers]
        self.register_load_state_dict_pre_hook(_fresh)  # type: ignore[no-untyped-call]

    def draw(self, rng: torch.Generator, progress: float) -> list[Relaxed]:
        most = max(len(layer.ops) for layer in self.space.layers)
        orders = []
        for number, layer in enumerate(self.space.layers):
            dealt = self._left[number]
            while len(dealt) < most:
                dealt = dealt + torch.randperm(len(layer.ops), generator=rng).tolist()
            orders.append(dealt[:most])
            self._left[number] = dealt[most:]
        return [
            one_path(self.space, [order[k] for order in orders], random_depths(self.space, rng))
            for k in range(most)
        ]

    def get_extra_state(self) -> list[list[int]]:
        return [list(left) for left in self._left]

    def set_extra_state(self, state: list[list[int]]) -> None:
        self._left = [list(left) for left in state]


def _fresh(strategy: StrictFairness, state: dict[str, Any], prefix: str, *rest: object) -> None:
    """Let a checkpoint of an older version, which has nothing left of a step, be loaded."""
    state.setdefault(f"{prefix}_extra_state", [[] for _ in strategy.space.layers])
