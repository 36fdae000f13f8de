"""Exact search: find the optimum of an additive model of the scores, again and again.

The model is a Gaussian process. Its kernel is a sum over layers, so each of its predictions is a
sum of contributions of the choices. Dynamic programming finds the feasible architecture with the
greatest sum (``nas.optimize.exact_solver``). Each proposal is the optimum of one function drawn
from the process after all scores so far (Thompson 1933, by Matheron's rule), so that uncertain
choices are tried too. If scores really add up over layers, no search can do better. If layers
interact, the model stays wrong, and evolution with a surrogate gets better results.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from nas.optimize.blackbox.base import BlackBox
from nas.optimize.blackbox.features import Features, squared_distances
from nas.optimize.blackbox.variation import DEFAULT, Variation
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.exact_solver import Scores, best_code
from nas.optimize.random_codes import random_code

_NOISE = 0.05  # share of the scores' variance that is due to interactions of layers


class ExactSearch(BlackBox):
    """Evaluates the optimum of a drawn additive model."""

    def __init__(self, encoded: EncodedSpace, *, seed: int, variation: Variation = DEFAULT) -> None:
        super().__init__(encoded, seed=seed, variation=variation)
        tables = Features(encoded).tables
        share = 1 / len(tables)  # share of one layer in the variance
        self.kernels = [share * np.exp(-squared_distances(t, t)) for t in tables]
        self.roots = [np.linalg.cholesky(k + 1e-9 * share * np.eye(len(k))) for k in self.kernels]

    def _propose(self) -> Code:
        if len(self.scores) < self.variation.initial:
            return random_code(self.encoded, self.rng)
        codes, scores = np.array(list(self.scores)), np.array(list(self.scores.values()))
        z = (scores - scores.mean()) / (scores.std() or 1.0)
        layers = range(len(self.kernels))
        known = sum(self.kernels[i][np.ix_(codes[:, i], codes[:, i])] for i in layers)
        factor = cho_factor(known + _NOISE * np.eye(len(z)), lower=True)
        drawn = [root @ self.rng.normal(size=len(root)) for root in self.roots]
        there = sum(drawn[i][codes[:, i]] for i in layers)
        noise = self.rng.normal(scale=_NOISE**0.5, size=len(z))
        a = cho_solve(factor, z - there - noise)
        rows = [drawn[i] + self.kernels[i][:, codes[:, i]] @ a for i in layers]
        # an absent layer contributes too: scores of choices are relative to it
        return self.encoded.canonical(
            best_code(
                self.encoded, Scores.of_choices(self.encoded, [row[:-1] - row[-1] for row in rows])
            )
        )
