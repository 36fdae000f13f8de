"""What a unified block costs depends on how many sub-blocks have each kernel, and on nothing else.

Of the 3 * 4^5 = 3,072 outcomes of a layer's six sub-blocks 83 are distinct blocks, the *count
vectors* ``nas.spaces.sgnas.COUNT_VECTORS``. So whatever is asked of all outcomes, the probability
of each cost or the likeliest way to it, is asked of count vectors, one sub-block after another:
the numbers of active kernels after i + 1 sub-blocks are those after i, or one more of the chosen
kernel.
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
from nas.spaces.sgnas import CHOICES, COUNT_VECTORS, KERNELS, SKIP, kernels_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_VECTORS = ((), *COUNT_VECTORS)
"""All count vectors as ascending kernels, that of an empty layer first."""


class CountProbabilities:
    """Probability of every count vector, where sub-blocks choose independently."""

    def __init__(self) -> None:
        self._before = Constant(torch.tensor(_before()))

    def __call__(self, probabilities: Tensor) -> Tensor:
        """A product of six small polynomials, differentiable.

        Args:
            probabilities: Probabilities of choices, ``(..., B, 4)``; that of the first sub-block's
                skip is 0.

        Returns:
            ``(..., 83)``, in the order of ``COUNT_VECTORS``.
        """
        before = self._before.at(probabilities.device)
        # one place more than there are vectors, always 0: what no sub-block can come from
        mass = probabilities.new_zeros(*probabilities.shape[:-2], len(_VECTORS) + 1)
        mass[..., 0] = 1.0
        for choices in probabilities.unbind(-2):
            came = _taken(mass, before)  # (..., 84, 4)
            reached = (came * choices[..., None, :]).sum(-1)
            mass = torch.cat([reached, torch.zeros_like(reached[..., :1])], dim=-1)
        return mass[..., 1:-1]


def count_probabilities(probabilities: Tensor) -> Tensor:
    """As ``CountProbabilities``, for a single use: what it needs is brought to a GPU every time."""
    return CountProbabilities()(probabilities)


def _taken(mass: Tensor, before: Tensor) -> Tensor:
    """Elements of the last axis, ``(..., 85)`` by ``(84, 4)`` to ``(..., 84, 4)``."""
    if mass.device.type == "cpu":
        return mass[..., before]
    # the gradient of indexing sorts its indices on a GPU, in a dozen calls; this one's adds them
    return mass.index_select(-1, before.flatten()).reshape(*mass.shape[:-1], *before.shape)


def nearest_choices(scores: Floats, chosen: Ints) -> tuple[Ints, Floats, Ints]:
    """For every count vector of a layer the choices with those counts that change least.

    Among those that change equally many sub-blocks, the ones of greatest score.

    Args:
        scores: Scores of choices, ``(B, 4)``.
        chosen: The present choice of every sub-block, ``(B,)``.

    Returns:
        By count vector: changed sub-blocks ``(83,)``, score ``(83,)``, choices ``(83, B)``.
    """
    before = _before()
    nowhere = len(_VECTORS)
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


def counts_of(choices: Ints) -> Ints:
    """Count vectors of choices ``(L, B)``, as places in ``COUNT_VECTORS``."""
    return np.array([count_index(row) for row in choices.tolist()])


def count_index(choices: Sequence[int]) -> int:
    """Place in ``COUNT_VECTORS`` of what a layer's sub-blocks choose."""
    return _places()[tuple(sorted(kernels_of(choices)))] - 1


@cache
def _places() -> dict[tuple[int, ...], int]:
    return {vector: place for place, vector in enumerate(_VECTORS)}


@cache
def _before() -> Ints:
    """Where each count vector comes from by each choice, ``(84, 4)``; 84 is nowhere."""
    places, nowhere = _places(), len(_VECTORS)
    before = np.full((nowhere, CHOICES), nowhere, dtype=np.int64)
    for vector, place in places.items():
        before[place, SKIP] = place
        for choice, kernel in enumerate(KERNELS):
            if kernel in vector:
                rest = Counter(vector)
                rest[kernel] -= 1
                before[place, choice] = places[tuple(sorted(rest.elements()))]
    return before
