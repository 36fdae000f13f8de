"""Triplet loss (Schroff et al. 2015): images of one identity are closer than those of two.

Distances are squared Euclidean distances of embeddings of length 1, from 0 to 4. Every pair of
images of one identity in the batch is an anchor with its positive; the negative is mined.

On the CPU only the listed pairs are computed. On a GPU the processor would have to wait for the
number of pairs. So all ``(N, N)`` pairs are computed there, and invalid ones are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.errors import UnknownNameError
from nas.criteria import check_range

_FAR = 5.0  # more than the largest squared distance of two embeddings


class Triplet(nn.Module):
    """Mean of ``max(d(a, p) - d(a, n) + margin, 0)`` over the triplets that are not yet 0.

    Args:
        outputs: Size of the embedding.
        classes: Number of identities; not used.
        margin: Margin between the two distances; 0.3 in OSNASLib.
        mining: Choice of the negative. ``hard``: per anchor its farthest positive and its nearest
            negative (Hermans et al. 2017). ``semi-hard``: per pair the nearest negative that is
            farther than the positive, or where there is none the farthest (Schroff et al., Section
            3.2). ``random``: per pair any negative that violates the margin, drawn from torch's
            generator.
    """

    embeds: ClassVar[bool] = True

    def __init__(
        self, outputs: int, classes: int, *, margin: float = 0.3, mining: str = "hard"
    ) -> None:
        super().__init__()
        check_range("margin", margin, 0, 4)
        if mining not in _MINERS:
            raise UnknownNameError("mining", mining, _MINERS)
        self.margin = margin
        self._list, self._mask = _MINERS[mining]

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        unit = F.normalize(embeddings.float(), dim=1)
        distance = (2 - 2 * unit @ unit.T).clamp(0, 4)  # (N, N)
        same = labels[:, None] == labels
        if distance.device.type == "cpu":
            positive, negative = self._list(distance, same, self.margin)
            losses = (positive - negative + self.margin).relu()
        else:
            positive, negative, mined = self._mask(distance, same, self.margin)
            losses = (positive - negative + self.margin).relu() * mined
        return losses.sum() / (losses > 0).sum().clamp_min(1)


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Squared distances ``(N,)`` of embeddings ``(N, E)`` and ``(N, E)``, scaled to length 1."""
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1)


def _pairs(same: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors and positives: all ordered pairs of different images of one identity."""
    anchors, positives = _are_pairs(same).nonzero(as_tuple=True)
    return anchors, positives


def _are_pairs(same: Tensor) -> Tensor:
    """Mask ``(N, N)`` of pairs of an anchor and its positive."""
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    # an anchor has no negative if the whole batch shows its identity
    return others & (~same).any(1)[:, None]


def _hard(distance: Tensor, same: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    anchors = torch.unique(_pairs(same)[0])
    row, alike = distance[anchors], same[anchors]
    positive = row.masked_fill(~alike, -1.0).amax(1)
    negative = row.masked_fill(alike, _FAR).amin(1)
    return positive, negative


def _semi_hard(distance: Tensor, same: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    anchors, positives = _pairs(same)
    positive, row, alike = distance[anchors, positives], distance[anchors], same[anchors]
    nearer = row <= positive[:, None]
    farther = row.masked_fill(alike | nearer, _FAR).amin(1)
    farthest = row.masked_fill(alike, -1.0).amax(1)
    return positive, torch.where(farther < _FAR, farther, farthest)


def _random(distance: Tensor, same: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    anchors, positives = _pairs(same)
    positive, row = distance[anchors, positives], distance[anchors]
    violating = ~same[anchors] & (row < positive[:, None] + margin)
    kept = violating.any(1)
    if not bool(kept.any()):
        return positive[:0], positive[:0]
    drawn = torch.multinomial(violating[kept].float(), 1)
    return positive[kept], row[kept].gather(1, drawn).flatten()


# the same for all pairs: distances to positives, distances to negatives, mask of mined pairs


def _mask_hard(distance: Tensor, same: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    positive = distance.masked_fill(~same, -1.0).amax(1)
    negative = distance.masked_fill(same, _FAR).amin(1)
    return positive, negative, _are_pairs(same).any(1)


def _mask_semi_hard(distance: Tensor, same: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    row, alike = distance[:, None], same[:, None]  # axes: anchors, positives, negatives
    nearer = row <= distance[:, :, None]
    farther = row.masked_fill(alike | nearer, _FAR).amin(2)
    farthest = distance.masked_fill(same, -1.0).amax(1)[:, None]
    return distance, torch.where(farther < _FAR, farther, farthest), _are_pairs(same)


def _mask_random(distance: Tensor, same: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    violating = ~same[:, None] & (distance[:, None] < distance[:, :, None] + margin)
    draws = torch.rand(violating.shape, device=distance.device)
    drawn = draws.masked_fill(~violating, -1.0).argmax(2)  # (N, N)
    return distance, distance.gather(1, drawn), _are_pairs(same) & violating.any(2)


_Listed = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
_Masked = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
_MINERS: dict[str, tuple[_Listed, _Masked]] = {
    "hard": (_hard, _mask_hard),
    "semi-hard": (_semi_hard, _mask_semi_hard),
    "random": (_random, _mask_random),
}
