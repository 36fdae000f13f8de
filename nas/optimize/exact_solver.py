"""Exact solver: the best architecture under any constraint, if scores add up over layers.

The problem is a multiple-choice knapsack. Dynamic programming over layers keeps the Pareto front of
the partial solutions. A partial solution is also dropped if no completion of it can be better than
the best known architecture; the Lagrangian relaxation of the remaining layers gives this bound
(Fisher 1981). Budgets are added one by one, starting with the one that is exceeded most, until the
best architecture under the added budgets keeps all others as well.

Glossary:

    lambda    multiplier of a piece's budget, ``(pieces,)``, not negative
    value     score - lambda . amount; its maximum is found layer by layer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nas.latency.extremes import Layers, least_rest, pareto_rows
from nas.latency.partial_solutions import ABSENT, PartialSolutions
from nas.optimize.constraints import Floats
from nas.optimize.encoding import Code, EncodedSpace

_BISECTIONS = 60  # halvings of a multiplier's range
_ROUNDS = 4  # rounds over the multipliers, if there are several
_ROUNDING = 1e-9  # relative tolerance of scores: rounding of the bounds


@dataclass(frozen=True)
class Scores:
    """Scores of choices that add up over a network.

    Attributes:
        choices: Scores of the choices of each layer, ``(choices,)``.
        depths: Scores of the depths of each stage, from depth 1. Scores of depths that the space
            does not have are ignored.
    """

    choices: Sequence[Floats]
    depths: Sequence[Floats]

    @classmethod
    def of_choices(cls, encoded: EncodedSpace, choices: Sequence[Floats]) -> Scores:
        """Scores of choices only; depths have the score 0."""
        return cls(choices, [np.zeros(len(layers)) for layers in encoded.stages])

    def of(self, space: EncodedSpace | Sums, code: Code) -> float:
        """The score of an encoding."""
        total = sum(float(row[n]) for row, n in zip(self.choices, code, strict=True) if n != ABSENT)
        for depths, layers in zip(self.depths, space.stages, strict=True):
            total += float(depths[sum(code[layer] != ABSENT for layer in layers) - 1])
        return total


@dataclass(frozen=True)
class Sums(Layers):
    """All networks that choices for layers can form, the costs of the choices, and budgets.

    Attributes:
        budgets: Budget of every piece, ``(pieces,)``.
    """

    budgets: Floats

    @classmethod
    def of_codes(cls, encoded: EncodedSpace) -> Sums:
        """The sums and budgets of an encoded space."""
        layers = encoded.layers
        return cls(layers.stages, layers.depths, layers.addends, layers.base, encoded.budgets)

    def only(self, pieces: Sequence[int]) -> Sums:
        """The same networks with only some of the pieces."""
        which = list(pieces)
        addends = [rows[:, which] for rows in self.addends]
        return Sums(self.stages, self.depths, addends, self.base[which], self.budgets[which])

    def joined(self, addends: Sequence[Floats], *, base: float, budget: float) -> Sums:
        """The same networks with one more piece; ``addends`` are ``(choices,)`` by layer."""
        return Sums(
            self.stages,
            self.depths,
            [np.column_stack([a, b]) for a, b in zip(self.addends, addends, strict=True)],
            np.append(self.base, base),
            np.append(self.budgets, budget),
        )

    def feasible(self, code: Code) -> bool:
        return bool((self.sums(code) <= self.budgets).all())


def best_code(encoded: EncodedSpace, scores: Scores) -> Code:
    """The feasible encoding with the greatest sum of scores.

    It need not be canonical, because scores may change when equal layers change places.
    """
    known = encoded.lightest
    return best_of_sums(Sums.of_codes(encoded), scores, above=scores.of(encoded, known)) or known


def best_of_sums(sums: Sums, scores: Scores, *, above: float = -np.inf) -> Code | None:
    """The encoding with the greatest sum of scores that keeps all budgets.

    Args:
        sums: Choices with their costs, and the budgets.
        scores: Scores of all choices.
        above: Score that the encoding must exceed.

    Returns:
        The encoding; None if no feasible one has a greater score than ``above``.
    """
    counted: list[int] = []
    while True:
        found = _Solver(sums.only(counted), scores, above).solve()
        if found is None:
            return None
        excess = (sums.sums(found) - sums.budgets) / np.abs(sums.budgets)
        if excess.max() <= 0:
            return found
        counted.append(int(excess.argmax()))


class _Solver:
    """Solves one problem. Amounts do not include ``base``."""

    def __init__(self, sums: Sums, scores: Scores, above: float) -> None:
        self.sums, self.scores = sums, scores
        self.room = sums.budgets - sums.base
        self.numbers = [
            pareto_rows(np.column_stack([-gains, addends]), rivals=len(gains))
            for gains, addends in zip(scores.choices, sums.addends, strict=True)
        ]
        layers = range(len(self.numbers))
        self.gains = [scores.choices[i][self.numbers[i]] for i in layers]
        self.addends = [sums.addends[i][self.numbers[i]] for i in layers]
        self.best: Code | None = None
        self.best_score = max(above, self._below_all())

    def solve(self) -> Code | None:
        if not len(self.room):
            self._keep(self._relaxed(self.room))
            return self.best
        self.multipliers = self._multipliers()
        self.most_value = self._most_value(self.multipliers)
        self.least_rest = least_rest(self.sums.stages, self.sums.depths, self.addends)
        alive = PartialSolutions.none(len(self.room))
        for stage, layers in enumerate(self.sums.stages):
            ended: list[PartialSolutions] = []
            for made, layer in enumerate(layers, start=1):
                alive = alive.extended(
                    self.addends[layer],
                    self.gains[layer],
                    self.numbers[layer],
                    partial(self._pruned, stage=stage, made=made),
                ).undominated(self.room)
                if made in self.sums.depths[stage]:
                    score = float(self.scores.depths[stage][made - 1])
                    end = alive.ended(score, len(layers) - made)
                    ended.append(self._pruned(end, stage=stage + 1, made=0))
            alive = PartialSolutions.joined(ended).undominated(self.room)
        for row in np.argsort(-alive.scores, kind="stable").tolist():
            if self._keep(tuple(alive.codes[row].tolist())):
                break
        return self.best

    def _keep(self, code: Code) -> bool:
        """Keep an encoding if it is feasible and the best so far; return whether it is feasible."""
        if not self.sums.feasible(code):
            return False
        score = self.scores.of(self.sums, code)
        if score > self.best_score:
            self.best, self.best_score = code, score
        return True

    def _below_all(self) -> float:
        """A score below that of every encoding, which prunes early if nothing is feasible."""
        layers = sum(min(0.0, float(row.min())) for row in self.gains)
        rows = zip(self.scores.depths, self.sums.depths, strict=True)
        return layers + sum(min(float(row[d - 1]) for d in depths) for row, depths in rows) - 1

    def _pruned(self, partials: PartialSolutions, *, stage: int, made: int) -> PartialSolutions:
        """Without partial solutions that cannot keep the budgets or cannot beat the best so far."""
        left = self.room - partials.amounts  # (n, pieces)
        fits = (self.least_rest[stage][made] <= left + _ROUNDING * np.abs(self.room)).all(axis=1)
        at_most = partials.scores + left @ self.multipliers + self.most_value[stage][made]
        least = self.best_score - _ROUNDING * (1 + abs(self.best_score))
        return partials.where(fits & (at_most >= least)).undominated(self.room)

    def _multipliers(self) -> Floats:
        """Multipliers that give a small upper bound; keeps feasible encodings found on the way.

        The bound is convex in each multiplier. Its slope is the room that the relaxed optimum
        leaves, and bisection finds where the slope changes sign.
        """
        multipliers = np.zeros(len(self.room))
        span = sum(float(np.ptp(gains)) for gains in self.gains) + sum(
            float(np.ptp([row[depth - 1] for depth in self.sums.depths[stage]]))
            for stage, row in enumerate(self.scores.depths)
        )
        smallest = min(
            (float(np.abs(a).max()) for a in self.addends if np.abs(a).max() > 0), default=1.0
        )
        for _ in range(1 if len(self.room) == 1 else _ROUNDS):
            for piece in range(len(self.room)):
                low, high = 0.0, 1e3 * (span + _ROUNDING) / smallest
                for _ in range(_BISECTIONS):
                    code = self._relaxed(multipliers)
                    self._keep(code)
                    left = float(self.sums.budgets[piece] - self.sums.sums(code)[piece])
                    if left >= 0:
                        high = multipliers[piece]
                    else:
                        low = multipliers[piece]
                    if high == 0.0:
                        break
                    multipliers[piece] = (low + high) / 2
        return multipliers

    def _relaxed(self, multipliers: Floats) -> Code:
        """The encoding of the greatest value; it may exceed budgets."""
        code = [ABSENT] * len(self.numbers)
        for stage, layers in enumerate(self.sums.stages):
            values = [self.gains[i] - self.addends[i] @ multipliers for i in layers]
            totals = np.cumsum([v.max() for v in values]) + self.scores.depths[stage]
            depth = max(self.sums.depths[stage], key=lambda d: float(totals[d - 1]))
            for layer, value in zip(layers[:depth], values, strict=False):
                code[layer] = int(self.numbers[layer][value.argmax()])
        return tuple(code)

    def _most_value(self, multipliers: Floats) -> list[list[float]]:
        """The greatest value that the remaining layers can add, by stage and its chosen layers."""
        most: list[list[float]] = [[0.0]]
        for stage in range(len(self.sums.stages) - 1, -1, -1):
            layers, later = self.sums.stages[stage], most[0][0]
            by_made = [-np.inf] * (len(layers) + 1)
            for made in range(len(layers), -1, -1):
                if made < len(layers):
                    values = self.gains[layers[made]] - self.addends[layers[made]] @ multipliers
                    by_made[made] = by_made[made + 1] + float(values.max())
                if made in self.sums.depths[stage]:
                    ending = float(self.scores.depths[stage][made - 1]) + later
                    by_made[made] = max(by_made[made], ending)
            most.insert(0, by_made)
        return most
