"""Cross entropy with smoothed labels (Szegedy et al. 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nas.criteria import check_logits, check_range


class LabelSmoothing(nn.Module):
    """Target 1 - smoothing for the true class, plus smoothing / classes for every class.

    Args:
        outputs: Number of logits.
        classes: Number of classes; must equal ``outputs``.
        smoothing: Share that is spread over all classes; 0.1 in TF-NAS, SGNAS and OSNASLib.
    """

    def __init__(self, outputs: int, classes: int, *, smoothing: float = 0.1) -> None:
        super().__init__()
        check_logits("label-smoothing", outputs, classes)
        check_range("smoothing", smoothing, 0, 1)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
