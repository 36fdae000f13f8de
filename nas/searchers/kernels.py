"""Relaxed mixes of kernels under a constraint: expected cost and best architecture.

In a space of unified blocks each layer has one of 83 multisets of kernels, and its sub-blocks
choose their kernels independently. Both results are computed with multisets. The expected cost
needs their probabilities (``nas.generator.kernel_multisets``). The best architecture needs the
likeliest choices that lead to each multiset; their log probabilities add up over layers
(``nas.optimize.exact_solver``).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nas.generator.expected_costs import Sums
from nas.generator.kernel_multisets import MultisetProbabilities, multiset_index, nearest_choices
from nas.optimize.constraints import Constraint
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.exact_solver import Scores, best_code
from nas.spaces import Choice
from nas.spaces.sgnas import CHOICES, KERNEL_MULTISETS, KERNELS, OP

_LEAST = 1e-30  # replaces the probability 0, so that the logarithm is finite


class KernelLoads:
    """Expected load of a relaxation of kernels under a constraint.

    Args:
        constraint: Limits of a space of unified blocks.
    """

    def __init__(self, constraint: Constraint) -> None:
        choices = [Choice(OP, kernels=kernels) for kernels in KERNEL_MULTISETS]
        layers = constraint.space.layers
        by_layer = {layer: constraint.addends(layer, choices) for layer in dict.fromkeys(layers)}
        addends = np.array([by_layer[layer] for layer in layers])  # (L, 83, pieces)
        budgets = constraint.budgets()
        self._sums = Sums(constraint.base() / budgets, addends / budgets)
        self._mass = MultisetProbabilities()

    def expected(self, probabilities: Tensor) -> Tensor:
        """The largest expected load, differentiable; 1 means at the budget.

        Args:
            probabilities: Probabilities of the choices of every sub-block, ``(layers, 6, 4)``.
        """
        return self._sums.expected_largest(self._mass(probabilities))


def most_probable_kernels(encoded: EncodedSpace, probabilities: Tensor) -> Code:
    """The feasible architecture whose kernels are the most probable choices of the sub-blocks.

    Args:
        encoded: The encoded space with its constraint.
        probabilities: Probabilities of the choices of every sub-block, ``(layers, 6, 4)``.
    """
    logs = np.log(np.maximum(probabilities.detach().cpu().double().numpy(), _LEAST))
    nothing = np.full(
        logs.shape[1], CHOICES
    )  # no present choice, so every choice counts as a change
    scores = []
    for rows, choices in zip(logs, encoded.choices, strict=True):
        likeliest = nearest_choices(rows, nothing)[1]  # (83,)
        places = [multiset_index([KERNELS.index(k) for k in c.kernels or ()]) for c in choices]
        scores.append(likeliest[places])
    return best_code(encoded, Scores.of_choices(encoded, scores))
