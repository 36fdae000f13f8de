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
        return gumbel_logits(logits, rng, tau).softmax(0)


def gumbel_logits(logits: Tensor, rng: torch.Generator, tau: float) -> Tensor:
    """(theta + g) / tau, in the shape of theta: their softmax is the weights, their argmax a draw.

    Args:
        logits: Logits, or log probabilities; both give the same weights.
        rng: Draws the noise, on the CPU.
        tau: Temperature.
    """
    uniform = torch.rand(logits.shape, generator=rng).clamp_(1e-9, 1 - 1e-7)  # never 0 or 1
    noise = -(-uniform.log()).log()
    return (logits + noise.to(logits.device, non_blocking=True)) / tau
