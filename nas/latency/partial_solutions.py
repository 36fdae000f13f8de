"""Partial solutions of the dynamic program, pruned to their Pareto front.

A partial solution holds the choices for the first layers, the amount of every piece of a constraint
that they add up to, and their score. Partial solutions of the same layers are compared: one is
dropped if another one has at least its score and no larger amount of any piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ABSENT = -1
"""Number that an encoding has for a layer beyond its stage's depth."""

_MOST = 50_000  # partial solutions; of more, those with equal rounded amounts are one
_AT_ONCE = 1_000_000  # partial solutions that are made at once, before pruning
_RIVALS = 64  # with several pieces: partial solutions to compare all others with


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
        """Add each choice of the next layer to each partial solution, then prune.

        Args:
            addends: Amounts that the choices add, ``(choices, pieces)``.
            gains: Scores of the choices, ``(choices,)``.
            numbers: Indices of the choices in encodings, ``(choices,)``.
            prune: Drops partial solutions. It is called on parts of them, to bound the memory.
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
        """End a stage: add the score of its depth, and mark so many layers as absent."""
        nothing = np.full((len(self.scores), absent), ABSENT)
        return PartialSolutions(
            self.amounts, self.scores + score, np.column_stack([self.codes, nothing])
        )

    def where(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> PartialSolutions:
        return PartialSolutions(self.amounts[kept], self.scores[kept], self.codes[kept])

    def undominated(self, room: Floats) -> PartialSolutions:
        """The Pareto front: without those that another one matches or beats in all respects.

        With several pieces each partial solution is compared only with those of the best scores.
        A few dominated ones stay, which costs time but does not change the optimum.
        """
        if not len(self.scores):
            return self
        kept = self.where(np.lexsort((*self.amounts.T, -self.scores)))  # best scores first
        if kept.amounts.shape[1] == 1:
            lightest_before = np.minimum.accumulate(kept.amounts[:, 0])
            kept = kept.where(np.r_[True, kept.amounts[1:, 0] < lightest_before[:-1]])
        else:
            kept = kept.where(unbeaten(kept.amounts, _RIVALS))
        steps = _MOST - 1
        while len(kept.scores) > _MOST:  # with several pieces, finer steps may leave too many
            bins = np.ceil(kept.amounts / np.abs(room) * steps)
            kept = kept.where(np.sort(np.unique(bins, axis=0, return_index=True)[1]))
            steps //= 2
        return kept

    @staticmethod
    def none(pieces: int) -> PartialSolutions:
        """The partial solution without any layer."""
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


def unbeaten(rows: Floats, rivals: int) -> NDArray[np.bool_]:
    """Which rows no earlier one is at or below in every piece; the best rows come first.

    Args:
        rows: The amounts, ``(n, pieces)``.
        rivals: Number of rows that all later ones are compared with.
    """
    alive = np.ones(len(rows), dtype=bool)
    for row in range(min(rivals, len(rows))):
        if alive[row]:
            alive[row + 1 :] &= ~(rows[row + 1 :] >= rows[row]).all(axis=1)
    return alive
