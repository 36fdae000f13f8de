"""PartialSolutions of networks, grown layer by layer: the arithmetic of dynamic programming here.

A beginning is the choices of the first layers, what they add up to of every piece of a constraint,
and their score. Of beginnings of the same layers only those matter that no other beats in score
and in every amount at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ABSENT = -1
"""In codes, the number of a layer beyond its stage's depth."""

_MOST = 50_000  # beginnings; beyond, those of equal amounts up to 1 / 50,000 of the room compete
_AT_ONCE = 1_000_000  # beginnings that are made before they are pruned
_RIVALS = 64  # beginnings that all others are compared with, where there are several pieces


@dataclass(frozen=True)
class PartialSolutions:
    """Amounts ``(n, pieces)``, scores ``(n,)`` and codes ``(n, layers)`` of partial solutions."""

    amounts: Floats
    scores: Floats
    codes: NDArray[np.int64]

    def extended(
        self,
        addends: Floats,
        gains: Floats,
        numbers: NDArray[np.int64],
        prune: Callable[[PartialSolutions], PartialSolutions],
    ) -> PartialSolutions:
        """With each of a layer's choices, without those that ``prune`` drops.

        Args:
            addends: What the choices add, ``(choices, pieces)``.
            gains: Their scores, ``(choices,)``.
            numbers: Their indices in codes, ``(choices,)``.
            prune: Called on parts of what there is, so that memory is bounded.
        """
        count = len(self.scores)
        parts = []
        for part in np.array_split(np.arange(len(numbers)), 1 + count * len(numbers) // _AT_ONCE):
            many = count * len(part)
            longer = PartialSolutions(
                (self.amounts[:, None] + addends[part][None]).reshape(many, addends.shape[1]),
                (self.scores[:, None] + gains[part][None]).reshape(many),
                np.column_stack(
                    [np.repeat(self.codes, len(part), axis=0), np.tile(numbers[part], count)]
                ),
            )
            parts.append(prune(longer))
        return PartialSolutions.joined(parts)

    def ended(self, score: float, absent: int) -> PartialSolutions:
        """With a stage's end: a score more, and so many layers left away."""
        nothing = np.full((len(self.scores), absent), ABSENT)
        return PartialSolutions(
            self.amounts, self.scores + score, np.column_stack([self.codes, nothing])
        )

    def where(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> PartialSolutions:
        return PartialSolutions(self.amounts[kept], self.scores[kept], self.codes[kept])

    def undominated(self, room: Floats) -> PartialSolutions:
        """Without those that another beats in score and in every amount at once.

        With several pieces a beginning is compared with those of best score only, which leaves
        some that are dominated; that costs time and not the optimum.
        """
        if not len(self.scores):
            return self
        kept = self.where(np.lexsort((*self.amounts.T, -self.scores)))  # best scores first
        if kept.amounts.shape[1] == 1:
            lightest_before = np.minimum.accumulate(kept.amounts[:, 0])
            kept = kept.where(np.r_[True, kept.amounts[1:, 0] < lightest_before[:-1]])
        else:
            alive = np.ones(len(kept.scores), dtype=bool)
            for row in range(min(_RIVALS, len(alive))):
                if alive[row]:
                    beaten = (kept.amounts[row + 1 :] >= kept.amounts[row]).all(axis=1)
                    alive[row + 1 :] &= ~beaten
            kept = kept.where(alive)
        if len(kept.scores) > _MOST:
            bins = np.ceil(kept.amounts / np.abs(room) * _MOST).max(axis=1)
            kept = kept.where(np.sort(np.unique(bins, return_index=True)[1]))
        return kept

    @staticmethod
    def none(pieces: int) -> PartialSolutions:
        """The one beginning without any layer."""
        return PartialSolutions(
            np.zeros((1, pieces)), np.zeros(1), np.zeros((1, 0), dtype=np.int64)
        )

    @staticmethod
    def joined(parts: Sequence[PartialSolutions]) -> PartialSolutions:
        return PartialSolutions(
            np.concatenate([part.amounts for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.codes for part in parts]),
        )
