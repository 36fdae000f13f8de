"""Gumbel softmax and its temperature (FBNet: Wu et al., CVPR 2019, Eq. 6).

Glossary:

    theta   logits of the operations
    g       noise of the standard Gumbel distribution, drawn anew for every step and layer
    tau     temperature: weights become one-hot as it falls
"""

from __future__ import annotations

import torch
from torch import Tensor

from nas.training.strategies.base import DifferentiableStrategy

TAU_START = 5.0
TAU_END = TAU_START * 0.956**90  # the published schedule: x 0.956 an epoch, 90 epochs


class GumbelSoftmax(DifferentiableStrategy):
    """Operations weighted by softmax((theta + g) / tau); tau falls geometrically."""

    def weights(self, logits: Tensor, rng: torch.Generator, progress: float) -> Tensor:
        tau = TAU_START * float((TAU_END / TAU_START) ** progress)
        return ((logits + gumbel_noise(logits.shape, rng)) / tau).softmax(0)


def gumbel_noise(shape: torch.Size, rng: torch.Generator) -> Tensor:
    """Draws of the standard Gumbel distribution, from uniform draws that are never 0 or 1."""
    uniform = torch.rand(shape, generator=rng).clamp_(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()
