"""NSGA-II (Deb et al. 2002), by pymoo: a whole front of score against load.

The front reaches from the lightest architectures to the budget. ``front`` contains the evaluated
architectures that no lighter one matches in score. Selection and survival come from pymoo;
crossover, mutation and repair are the same as in the other searchers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import ElementwiseDuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling

from nas.optimize.blackbox.base import BlackBox
from nas.optimize.blackbox.variation import DEFAULT, Variation, crossover, mutate
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.random_codes import random_code

POPULATION = 20  # small enough for some generations within a few hundred evaluations
_BARREN = 3  # generations without a new encoding, after which the nearest new one is taken
_MATINGS = 8  # rounds in which pymoo looks for children outside of the population


class NSGA2Search(BlackBox):
    """Evaluates the new children of pymoo's population."""

    whole_front = True

    def __init__(self, encoded: EncodedSpace, *, seed: int, variation: Variation = DEFAULT) -> None:
        super().__init__(encoded, seed=seed, variation=variation)
        self.algorithm = NSGA2(
            pop_size=POPULATION,
            sampling=_Random(self),
            crossover=_Cross(self),
            mutation=_Mutate(self),
            eliminate_duplicates=_Same(),
        )
        self.algorithm.mating.n_max_iterations = _MATINGS
        problem = Problem(n_var=1, n_obj=2, xl=None, xu=None)
        self.algorithm.setup(problem, termination=("n_gen", 10**9), seed=seed, verbose=False)
        self.children: Any = None  # pymoo individuals of the current generation
        self.waiting: list[Any] = []  # individuals that have no score yet

    def _propose(self) -> Code:
        for _ in range(_BARREN):
            while self.waiting:
                code: Code = self.waiting[-1].X[0]
                if code not in self.scores:
                    return code
                self._settle(self.waiting.pop())
            if self.children is not None:
                self.algorithm.tell(infills=self.children)
            self.children = self.algorithm.ask()
            if self.children is None:  # pymoo found no child outside of the population
                break
            self.waiting = list(self.children)[::-1]
        return random_code(self.encoded, self.rng)

    def ask_several(self, count: int) -> list[Code]:
        """The children of one generation that have no score: a guess would be taken for one."""
        first = self.ask()
        if first is None:
            return []
        asked = {first: None}
        for individual in reversed(self.waiting):
            code: Code = individual.X[0]
            if len(asked) < count and code not in self.scores:
                asked[code] = None
        return list(asked)

    def _settle(self, individual: Any) -> None:
        code = individual.X[0]
        individual.F = np.array([-self.scores[code], self.encoded.load(code)])
        individual.evaluated = {"F"}

    def front(self) -> list[Code]:
        """The Pareto front of the evaluated encodings, from the lightest to the best."""
        found: list[Code] = []
        for code in sorted(self.scores, key=lambda c: (self.encoded.load(c), -self.scores[c])):
            if not found or self.scores[code] > self.scores[found[-1]]:
                found.append(code)
        return found


class _Random(Sampling):  # type: ignore[misc]
    def __init__(self, search: BlackBox) -> None:
        super().__init__()
        self.search = search

    def _do(self, problem: Problem, n_samples: int, *args: Any, **kwargs: Any) -> Any:
        return _column(
            [random_code(self.search.encoded, self.search.rng) for _ in range(n_samples)]
        )


class _Cross(Crossover):  # type: ignore[misc]
    def __init__(self, search: BlackBox) -> None:
        super().__init__(n_parents=2, n_offsprings=2)
        self.search = search

    def _do(self, problem: Problem, X: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803
        encoded, rng = self.search.encoded, self.search.rng
        children = np.empty_like(X)  # (parents, matings, 1)
        for mating in range(X.shape[1]):
            one, other = X[0, mating, 0], X[1, mating, 0]
            for number in range(2):
                children[number, mating, 0] = crossover(
                    encoded, one, other, rng, variation=self.search.variation
                )
        return children


class _Mutate(Mutation):  # type: ignore[misc]
    def __init__(self, search: BlackBox) -> None:
        super().__init__(prob=1.0)
        self.search = search

    def _do(self, problem: Problem, X: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803
        encoded, rng = self.search.encoded, self.search.rng
        variation = self.search.variation
        return _column([mutate(encoded, code, rng, variation=variation) for code in X[:, 0]])


class _Same(ElementwiseDuplicateElimination):  # type: ignore[misc]
    def is_equal(self, a: Any, b: Any) -> bool:
        return bool(a.X[0] == b.X[0])


def _column(codes: list[Code]) -> Any:
    column = np.empty((len(codes), 1), dtype=object)
    for row, code in enumerate(codes):
        column[row, 0] = code
    return column
