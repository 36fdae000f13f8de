"""One path a step, drawn uniformly (SPOS: Guo et al., ECCV 2020)."""

from __future__ import annotations

import torch

from nas.latency.relaxation import Relaxed
from nas.training.strategies.base import Strategy, random_path


class UniformPath(Strategy):
    """Draws each layer's operation independently, and each stage's depth if it is elastic."""

    def draw(self, rng: torch.Generator, progress: float) -> list[Relaxed]:
        return [random_path(self.space, rng)]
