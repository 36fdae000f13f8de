"""Evolution as in SPOS (Guo et al., ECCV 2020), one child at a time.

The fittest of all evaluated architectures are the parents. A child is a mutation of one parent or a
crossover of two. SPOS draws children again until one is new and feasible. Here an infeasible child
is repaired, and a known child is replaced by the nearest unknown architecture. So every child takes
the same short time, whatever the budget.
"""

from __future__ import annotations

import heapq

import numpy as np

from nas.optimize.blackbox.base import BlackBox
from nas.optimize.blackbox.variation import crossover, mutate
from nas.optimize.encoding import Code
from nas.optimize.random_codes import random_code

_TRIES = 8  # children to draw before the nearest new one is taken


class Evolution(BlackBox):
    """Evaluates children of the fittest architectures."""

    def _propose(self) -> Code:
        if len(self.scores) < self.variation.initial:
            return random_code(self.encoded, self.rng)
        parents = fittest(self)
        for _ in range(_TRIES):
            made = child(self, parents, self.rng)
            if made not in self.scores:
                break
        return made


def fittest(black_box: BlackBox) -> list[Code]:
    """The best evaluated encodings, best first."""
    scores = black_box.scores
    return heapq.nlargest(black_box.variation.parents, scores, key=scores.__getitem__)


def child(black_box: BlackBox, parents: list[Code], rng: np.random.Generator) -> Code:
    """A mutation of one of the parents, or a crossover of two."""
    encoded, variation = black_box.encoded, black_box.variation
    one = parents[int(rng.integers(len(parents)))]
    if rng.random() < variation.crossovers:
        other = parents[int(rng.integers(len(parents)))]
        return crossover(encoded, one, other, rng, variation=variation)
    return mutate(encoded, one, rng, variation=variation)
