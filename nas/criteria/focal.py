"""Focal loss (Lin et al. 2017): images that are already classified well have a small weight."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nas.criteria import check_logits, check_range


class Focal(nn.Module):
    """Mean of ``-alpha (1 - p) ** gamma log p``; p is the softmax probability of the true class.

    Args:
        outputs: Number of logits.
        classes: Number of classes; must equal ``outputs``.
        alpha: Factor of the whole loss. The paper's class weights are for detection.
        gamma: Exponent; 0 is cross entropy, 2 is the paper's choice (Section 5.1).
    """

    def __init__(
        self, outputs: int, classes: int, *, alpha: float = 1.0, gamma: float = 2.0
    ) -> None:
        super().__init__()
        check_logits("focal", outputs, classes)
        check_range("alpha", alpha, 0, 1e6)
        check_range("gamma", gamma, 0, 100)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = -F.cross_entropy(logits, labels, reduction="none")  # (N,)
        # the derivative of 0 ** gamma is not finite for gamma < 1
        missed = (-log_p.expm1()).clamp_min(1e-12)
        return -self.alpha * (missed**self.gamma * log_p).mean()
