"""Additive angular margin (ArcFace, Deng et al. 2019, Eq. 3)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.criteria import check_range


class AngularMargin(nn.Module):
    """Cross entropy over ``scale * cos(theta)``; the margin is added to theta of the true class.

    theta is the angle between an embedding and the centre of a class. With c = cos(theta),
    ``cos(theta + m) = c cos(m) - sqrt(1 - c^2) sin(m)``; beyond theta = pi - m, where this would
    rise again, the line ``c - m sin(m)`` is used, as in the published code.

    Args:
        outputs: Size of the embedding.
        classes: Number of identities.
        margin: m in radians; 0.5 in the paper.
        scale: Factor of the cosines; 64 in the paper.
        seed: Seed of the initial centres; -1 draws them from torch's own generator.
    """

    embeds: ClassVar[bool] = True

    def __init__(
        self,
        outputs: int,
        classes: int,
        *,
        margin: float = 0.5,
        scale: float = 64.0,
        seed: int = -1,
    ) -> None:
        super().__init__()
        check_range("margin", margin, 0, math.pi / 2)
        check_range("scale", scale, 1e-3, 1e6)
        check_range("seed", seed, -1, 2**31 - 1)
        self.margin, self.scale = margin, scale
        rng = torch.default_generator if seed < 0 else torch.Generator().manual_seed(seed)
        self.centres = nn.Parameter(torch.randn(classes, outputs, generator=rng) * 0.01)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Cosines between embeddings ``(N, outputs)`` and all centres, ``(N, classes)``."""
        return F.linear(F.normalize(embeddings.float(), dim=1), F.normalize(self.centres, dim=1))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosines = self.cosines(embeddings)
        own = cosines.gather(1, labels[:, None])
        # the root has no finite derivative at cosines of 1 and -1
        sines = (1 - own.square()).clamp_min(1e-7).sqrt()
        widened = own * math.cos(self.margin) - sines * math.sin(self.margin)
        beyond = own - self.margin * math.sin(self.margin)
        widened = torch.where(own > -math.cos(self.margin), widened, beyond)
        return F.cross_entropy(self.scale * cosines.scatter(1, labels[:, None], widened), labels)
