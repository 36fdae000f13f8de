"""Cross entropy of a softmax over logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nas.criteria import check_logits


class CrossEntropy(nn.Module):
    """Mean of -log p over the batch, where p is the probability of the true class."""

    def __init__(self, outputs: int, classes: int) -> None:
        super().__init__()
        check_logits("cross-entropy", outputs, classes)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)
