"""Probabilities and costs of unified blocks by their multiset of kernels.

The cost of a unified block depends only on how many of its sub-blocks have each kernel. The six
sub-blocks of a layer have 3 * 4^5 = 3,072 outcomes, but only 83 distinct blocks: the multisets of
kernels in ``nas.spaces.sgnas.KERNEL_MULTISETS``. So probabilities and best choices are computed for
multisets instead of outcomes, one sub-block after another. The multiset after sub-block i + 1 is
the multiset after sub-block i, or that multiset with the chosen kernel added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.generator.constants import Constant
from nas.spaces.sgnas import CHOICES, KERNEL_MULTISETS, KERNELS, SKIP, kernels_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MULTISETS = ((), *KERNEL_MULTISETS)
"""All multisets as ascending kernels, beginning with the empty one."""


class MultisetProbabilities:
    """Probability of every multiset of kernels, for sub-blocks that choose independently."""

    def __init__(self) -> None:
        self._before = Constant(torch.tensor(_before()))

    def __call__(self, probabilities: Tensor) -> Tensor:
        """A product of six small polynomials, differentiable.

        Args:
            probabilities: Probabilities of choices, ``(..., B, 4)``; the first sub-block skips with
                probability 0.

        Returns:
            ``(..., 83)``, in the order of ``KERNEL_MULTISETS``.
        """
        before = self._before.at(probabilities.device)
        # the last element is always 0: it stands for a predecessor that does not exist
        mass = probabilities.new_zeros(*probabilities.shape[:-2], len(_MULTISETS) + 1)
        mass[..., 0] = 1.0
        for choices in probabilities.unbind(-2):
            came = _taken(mass, before)  # (..., 84, 4)
            reached = (came * choices[..., None, :]).sum(-1)
            mass = torch.cat([reached, torch.zeros_like(reached[..., :1])], dim=-1)
        return mass[..., 1:-1]


def _taken(mass: Tensor, before: Tensor) -> Tensor:
    """Select elements ``(84, 4)`` of the last axis: ``(..., 85)`` to ``(..., 84, 4)``."""
    if mass.device.type == "cpu":
        return mass[..., before]
    # on a GPU the gradient of indexing takes a dozen calls to sort indices; index_select takes one
    return mass.index_select(-1, before.flatten()).reshape(*mass.shape[:-1], *before.shape)


def nearest_choices(scores: Floats, chosen: Ints) -> tuple[Ints, Floats, Ints]:
    """Choices that lead to each multiset of a layer with the fewest changes.

    If several choices need equally few changes, those of the greatest score are taken.

    Args:
        scores: Scores of choices, ``(B, 4)``.
        chosen: The present choice of every sub-block, ``(B,)``.

    Returns:
        For each multiset the number of changed sub-blocks ``(83,)``, the score ``(83,)`` and the
        choices ``(83, B)``.
    """
    before = _before()
    nowhere = len(_MULTISETS)
    changes = np.full(nowhere + 1, np.inf)
    changes[0] = 0.0
    score = np.zeros(nowhere + 1)
    trail = []
    for index, (row, present) in enumerate(zip(scores, chosen, strict=True)):
        step = (np.arange(CHOICES) != present).astype(np.float64)
        if index == 0:
            step[SKIP] = np.inf
        after = changes[before] + step  # (84, 4)
        gained = score[before] + row
        least = after.min(axis=1, keepdims=True)
        best = np.where(after == least, gained, -np.inf).argmax(axis=1)
        trail.append(best)
        places = np.arange(nowhere)
        changes[:-1], score[:-1] = after[places, best], gained[places, best]
    at = np.arange(1, nowhere)
    choices = np.empty((nowhere - 1, len(scores)), dtype=np.int64)
    for index in range(len(scores) - 1, -1, -1):
        choices[:, index] = trail[index][at]
        at = before[at, choices[:, index]]
    return changes[1:-1].astype(np.int64), score[1:-1], choices


def multisets_of(choices: Ints) -> Ints:
    """Multisets of choices ``(L, B)``, as indices in ``KERNEL_MULTISETS``."""
    return np.array([multiset_index(row) for row in choices.tolist()])


def multiset_index(choices: Sequence[int]) -> int:
    """Index in ``KERNEL_MULTISETS`` of the choices of a layer's sub-blocks."""
    return _places()[tuple(sorted(kernels_of(choices)))] - 1


@cache
def _places() -> dict[tuple[int, ...], int]:
    return {multiset: place for place, multiset in enumerate(_MULTISETS)}


@cache
def _before() -> Ints:
    """Index of the multiset before each choice, ``(84, 4)``; 84 if there is none."""
    places, nowhere = _places(), len(_MULTISETS)
    before = np.full((nowhere, CHOICES), nowhere, dtype=np.int64)
    for multiset, place in places.items():
        before[place, SKIP] = place
        for choice, kernel in enumerate(KERNELS):
            if kernel in multiset:
                rest = Counter(multiset)
                rest[kernel] -= 1
                before[place, choice] = places[tuple(sorted(rest.elements()))]
    return before
