"""Evolution with a surrogate: a model of the scores ranks candidates before evaluation.

The model is a Gaussian process (``nas.optimize.blackbox.gaussian_process``). The next architecture
to evaluate is the candidate with the greatest expected improvement. If all feasible architectures
can be listed, all of them are candidates; otherwise a few generations of evolution look for the
best candidate.
"""

from __future__ import annotations

import numpy as np

from nas.optimize.blackbox.base import BlackBox
from nas.optimize.blackbox.evolution import child, fittest
from nas.optimize.blackbox.features import Features
from nas.optimize.blackbox.gaussian_process import Codes, GaussianProcess, expected_improvement
from nas.optimize.blackbox.variation import DEFAULT, Variation
from nas.optimize.constraints import Floats
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.enumeration import LISTED, all_codes
from nas.optimize.random_codes import random_code

_GENERATIONS, _CHILDREN = 4, 64  # of the evolution that looks for candidates in larger spaces
_FEW = 16  # number of candidates that become parents


class SurrogateEvolution(BlackBox):
    """Evaluates the candidate with the greatest expected improvement."""

    def __init__(self, encoded: EncodedSpace, *, seed: int, variation: Variation = DEFAULT) -> None:
        super().__init__(encoded, seed=seed, variation=variation)
        self.listed = all_codes(encoded, LISTED)
        self.process = GaussianProcess(Features(encoded), self.listed)
        listed = [] if self.listed is None else self.listed.tolist()
        self._places = {tuple(code): place for place, code in enumerate(listed)}

    def _propose(self) -> Code:
        if len(self.scores) < self.variation.initial:
            return random_code(self.encoded, self.rng)
        self.process.fit(np.array(list(self.scores)), np.array(list(self.scores.values())))
        if self.listed is not None:
            candidates = self.listed
            values = expected_improvement(self.process.predict_listed(), self.best[1])
            values[[self._places[code] for code in self.scores if code in self._places]] = -1.0
        else:
            candidates, values = self._evolved()
        return tuple(candidates[int(values.argmax())].tolist())

    def _values(self, codes: Codes) -> Floats:
        """Expected improvements. Evaluated encodings get the lowest value."""
        values = expected_improvement(self.process.predict(codes), self.best[1])
        known = [tuple(code) in self.scores for code in codes.tolist()]
        values[np.flatnonzero(known)] = -1.0
        return values

    def _evolved(self) -> tuple[Codes, Floats]:
        """Candidates and their expected improvements after some generations."""
        best_known = fittest(self)
        pool = {random_code(self.encoded, self.rng): None for _ in range(_CHILDREN)}
        parents = best_known
        for _ in range(_GENERATIONS):
            pool |= {child(self, parents, self.rng): None for _ in range(_CHILDREN)}
            codes = np.array(list(pool))
            values = self._values(codes)
            best = np.argsort(-values, kind="stable")[:_FEW]
            parents = [*best_known, *(tuple(code) for code in codes[best].tolist())]
        return codes, values
