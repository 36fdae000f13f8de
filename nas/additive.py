"""The best architecture where scores add up over layers: exact, under any constraint.

A multiple-choice knapsack. Dynamic programming over layers keeps, of all beginnings of a network,
those that no other beginning beats in score and in every amount at once. What cannot end better
than an architecture that is already known is dropped: the Lagrangian relaxation of the rest of the
network bounds how well a beginning can end (Fisher 1981).

Glossary:

    lambda    multiplier of a piece's budget, ``(pieces,)``, not negative
    value     score - lambda . amount, whose maximum falls apart into layers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nas.beginnings import ABSENT, Beginnings
from nas.coding import Code, CodedSpace, least_rest, undominated
from nas.constraints import Floats

_BISECTIONS = 60  # halvings of a multiplier's range
_ROUNDS = 4  # over the multipliers, where there are several
_ROUNDING = 1e-9  # of scores: a bound this far below the best known is no worse than it


@dataclass(frozen=True)
class Scores:
    """Scores of choices, which add up over a network.

    Attributes:
        choices: By layer, of every choice, ``(choices,)``.
        depths: By stage, of every number of layers from 1; entries of depths that the space
            does not have are ignored.
    """

    choices: Sequence[Floats]
    depths: Sequence[Floats]

    @classmethod
    def of_choices(cls, coded: CodedSpace, choices: Sequence[Floats]) -> Scores:
        """Scores that do not depend on depths but for the layers that are there."""
        return cls(choices, [np.zeros(len(layers)) for layers in coded.stages])

    def of(self, coded: CodedSpace, code: Code) -> float:
        """The score of one code."""
        total = sum(float(row[n]) for row, n in zip(self.choices, code, strict=True) if n != ABSENT)
        for depths, depth in zip(self.depths, coded.depths(code), strict=True):
            total += float(depths[depth - 1])
        return total


def best_code(coded: CodedSpace, scores: Scores) -> Code:
    """The feasible code of the greatest sum of scores.

    It is not canonical: scores may differ where equal layers change places.
    """
    return _Solver(coded, scores).solve()


class _Solver:
    """One solution; amounts are counted from ``base`` on."""

    def __init__(self, coded: CodedSpace, scores: Scores) -> None:
        self.coded, self.scores = coded, scores
        self.room = coded.budgets - coded.base
        self.numbers = [
            undominated(gains, addends[:-1])
            for gains, addends in zip(scores.choices, coded.addends, strict=True)
        ]
        layers = range(len(self.numbers))
        self.gains = [scores.choices[i][self.numbers[i]] for i in layers]
        self.addends = [coded.addends[i][self.numbers[i]] for i in layers]
        self.best: Code = coded.lightest
        self.best_score = scores.of(coded, coded.lightest)

    def solve(self) -> Code:
        self.multipliers = self._multipliers()
        self.most_value = self._most_value(self.multipliers)
        self.least_rest = least_rest(self.coded, self.addends)
        alive = Beginnings.none(len(self.room))
        for stage, layers in enumerate(self.coded.stages):
            ended: list[Beginnings] = []
            for made, layer in enumerate(layers, start=1):
                alive = alive.extended(
                    self.addends[layer],
                    self.gains[layer],
                    self.numbers[layer],
                    partial(self._pruned, stage=stage, made=made),
                ).undominated(self.room)
                if made in self.coded.space.depths(stage):
                    score = float(self.scores.depths[stage][made - 1])
                    end = alive.ended(score, len(layers) - made)
                    ended.append(self._pruned(end, stage=stage + 1, made=0))
            alive = Beginnings.joined(ended).undominated(self.room)
        for row in np.argsort(-alive.scores, kind="stable").tolist():
            if self._keep(tuple(alive.codes[row].tolist())):
                break
        return self.best

    def _keep(self, code: Code) -> bool:
        """Remember a code that is better than the best so far, if it is feasible."""
        if not self.coded.feasible(code):
            return False
        score = self.scores.of(self.coded, code)
        if score > self.best_score:
            self.best, self.best_score = code, score
        return True

    def _pruned(self, beginnings: Beginnings, *, stage: int, made: int) -> Beginnings:
        """Without those that cannot end within the budgets or better than the best so far."""
        left = self.room - beginnings.amounts  # (n, pieces)
        fits = (self.least_rest[stage][made] <= left + _ROUNDING * self.room).all(axis=1)
        at_most = beginnings.scores + left @ self.multipliers + self.most_value[stage][made]
        slack = _ROUNDING * (1 + abs(self.best_score))
        return beginnings.where(fits & (at_most >= self.best_score - slack)).undominated(self.room)

    def _multipliers(self) -> Floats:
        """Multipliers of a small upper bound; feasible codes met on the way are remembered.

        The bound is convex in each multiplier, and its slope is the room that the relaxed optimum
        leaves: halving finds where it changes sign.
        """
        multipliers = np.zeros(len(self.room))
        span = sum(float(np.ptp(gains)) for gains in self.gains) + sum(
            float(np.ptp([row[depth - 1] for depth in self.coded.space.depths(stage)]))
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
                    left = self.coded.budgets[piece] - self.coded.amounts(code)[piece]
                    if left >= 0:
                        high = multipliers[piece]
                    else:
                        low = multipliers[piece]
                    if high == 0.0:
                        break
                    multipliers[piece] = (low + high) / 2
        return multipliers

    def _relaxed(self, multipliers: Floats) -> Code:
        """The code of the greatest value, whatever it takes of the budgets."""
        code = [ABSENT] * len(self.coded.choices)
        for stage, layers in enumerate(self.coded.stages):
            values = [self.gains[i] - self.addends[i] @ multipliers for i in layers]
            totals = np.cumsum([v.max() for v in values]) + self.scores.depths[stage]
            depth = max(self.coded.space.depths(stage), key=lambda d: float(totals[d - 1]))
            for layer, value in zip(layers[:depth], values, strict=False):
                code[layer] = int(self.numbers[layer][value.argmax()])
        return tuple(code)

    def _most_value(self, multipliers: Floats) -> list[list[float]]:
        """What the layers to come add to the value at most: by stage, by layers made of it."""
        most: list[list[float]] = [[0.0]]
        for stage in range(len(self.coded.stages) - 1, -1, -1):
            layers, later = self.coded.stages[stage], most[0][0]
            by_made = [-np.inf] * (len(layers) + 1)
            for made in range(len(layers), -1, -1):
                if made < len(layers):
                    values = self.gains[layers[made]] - self.addends[layers[made]] @ multipliers
                    by_made[made] = by_made[made + 1] + float(values.max())
                if made in self.coded.space.depths(stage):
                    ending = float(self.scores.depths[stage][made - 1]) + later
                    by_made[made] = max(by_made[made], ending)
            most.insert(0, by_made)
        return most
