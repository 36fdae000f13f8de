"""Differentiable search by softmax, first order (DARTS: Liu et al., ICLR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.training.strategies.base import DifferentiableStrategy


class Softmax(DifferentiableStrategy):
    """Operations weighted by the softmax of alpha, without random draws."""

    def weights(self, logits: Tensor, rng: torch.Generator, progress: float) -> Tensor:
        return logits.softmax(0)
