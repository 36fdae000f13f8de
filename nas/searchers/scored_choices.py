"""Choices of a relaxed space with their scores, and the latencies that they add.

The range of latencies over all widths follows from sums over layers, because a latency is the
largest of a few sums. A network is within the target if all of its sums are. So an operation
becomes one choice for each of its widths that no other width beats in all sums. The greatest
latency is at or above the target if any of the greatest sums is; this needs one solution for each
sum.

Probabilities are relative to the best choice of each layer. With the plain product of probabilities
each further layer would multiply by the probability of its operation, which is an eighth while
nothing is decided. Then the result would have one layer a stage whatever the betas are. Relative to
the best choice, the argmax of each choice is the best architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.latency.extremes import pareto_rows
from nas.latency.partial_solutions import ABSENT
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Places, Widths
from nas.optimize.encoding import Code
from nas.optimize.exact_solver import Scores, Sums, best_of_sums
from nas.spaces import Choice

Floats = NDArray[np.float64]

ROUNDING = 1e-9  # sums of the same prices in another order differ in their last digits


@dataclass(frozen=True)
class LogProbabilities:
    """Log probabilities of all choices.

    Attributes:
        ops: Log probabilities of operations, by stage and layer.
        depths: Log probabilities of the depths 1, 2, ... of each stage.
        skips: Log probabilities of leaving a layer out, by stage and layer, if layers can be left
            out. The layers after it move up.
    """

    ops: Sequence[Sequence[Sequence[float]]]
    depths: Sequence[Sequence[float]]
    skips: Sequence[Sequence[float]] = ()

    def skip(self, stage: int, layer: int) -> float:
        return self.skips[stage][layer] if self.skips else -np.inf

    def choice(self, stage: int, layer: int) -> list[float]:
        """Log probabilities of operations and of leaving the layer out, relative to the best."""
        row = [*self.ops[stage][layer], self.skip(stage, layer)]
        return [value - max(row) for value in row]


@dataclass(frozen=True)
class ScoredChoices:
    """All choices, their scores, and the latencies that they add.

    Attributes:
        places: Operation of every choice, by layer; None leaves the layer out. An operation has one
            choice for each of its widths that no other width beats in all pieces.
        scores: Scores of the choices, and of the depths of every stage.
        depths: Possible numbers of layers of every stage.
        least_ms: Latency that each choice adds at its width, ``(choices, pieces)`` for each layer.
        most_ms: Greatest latency that the operation of each choice adds at any width.
    """

    priced: PricedSpace
    places: Sequence[Sequence[int | None]]
    scores: Scores
    depths: Sequence[Sequence[int]]
    least_ms: Sequence[Floats]
    most_ms: Sequence[Floats]

    @classmethod
    def of_any_width(cls, priced: PricedSpace, log: LogProbabilities) -> ScoredChoices:
        """Choices with elastic widths."""
        space = priced.space
        addends = [
            [[priced.addends_ms(layer, op)[1] for op in layer.ops] for layer in layers]
            for layers in space.stages
        ]
        return cls._of(priced, log, addends)

    @classmethod
    def of_widths(cls, priced: PricedSpace, log: LogProbabilities, widths: Widths) -> ScoredChoices:
        """Choices with the present widths."""
        addends = [
            [
                [priced.addend_ms(layer, Choice(op, widths[s][i][op]))[None] for op in layer.ops]
                for i, layer in enumerate(layers)
            ]
            for s, layers in enumerate(priced.space.stages)
        ]
        return cls._of(priced, log, addends)

    @classmethod
    def _of(
        cls,
        priced: PricedSpace,
        log: LogProbabilities,
        addends: Sequence[Sequence[Sequence[Floats]]],
    ) -> ScoredChoices:
        """Choices from the addends ``(widths, pieces)`` of each stage, layer and operation."""
        places: list[list[int | None]] = []
        scores, least, most = [], [], []
        nothing = np.zeros((1, len(priced.base_ms)))
        for s, stage in enumerate(addends):
            for i, by_op in enumerate(stage):
                logs = log.choice(s, i)
                possible = [n for n, value in enumerate(logs) if np.isfinite(value)]
                may_add = [*by_op, nothing]
                fronts = [may_add[n][pareto_rows(may_add[n])] for n in possible]
                counts = [len(front) for front in fronts]
                choices = np.repeat(possible, counts).tolist()
                places.append([n if n < len(by_op) else None for n in choices])
                scores.append(np.array([logs[n] for n in choices]))
                least.append(np.concatenate(fronts))
                most.append(np.array([may_add[n].max(axis=0) for n in choices]))
        depths = [[d for d, p in enumerate(row, start=1) if np.isfinite(p)] for row in log.depths]
        ends = [np.array(row) for row in log.depths]
        return cls(priced, places, Scores(scores, ends), depths, least, most)

    def most_probable(self, width_range_ms: tuple[float, float | None]) -> Places | None:
        """The most probable operations and depths whose widths cover a range.

        Args:
            width_range_ms: Ends of the range. The narrowest widths are at or below the first, the
                widest at or above the second. None for the second leaves the upper end free.
        """
        low_ms, high_ms = width_range_ms
        base_ms = self.priced.base_ms
        budgets_ms = np.full(len(base_ms), low_ms * (1 + ROUNDING))
        sums = Sums(self.priced.space.ranges, self.depths, self.least_ms, base_ms, budgets_ms)
        if high_ms is None:
            best = best_of_sums(sums, self.scores)
        else:
            best = self._most_probable_up_to(high_ms * (1 - ROUNDING), sums)
        return None if best is None else self._places_at(best)

    def _most_probable_up_to(self, high_ms: float, sums: Sums) -> Code | None:
        """The most probable encoding that keeps the budgets and has a piece of at least a latency.

        The best encoding of each piece without budgets gives an upper bound. It is quick to find,
        and usually keeps the budgets.
        """
        bounds: list[tuple[float, Code, Sums]] = []
        for piece, constant_ms in enumerate(self.priced.base_ms):
            most_ms = [-rows[:, piece] for rows in self.most_ms]
            joined = sums.joined(most_ms, base=-float(constant_ms), budget=-high_ms)
            code = best_of_sums(joined.only([len(joined.base) - 1]), self.scores)
            if code is not None:
                bounds.append((self.scores.of(sums, code), code, joined))
        best, best_score = None, -np.inf
        for bound, code, joined in sorted(bounds, key=lambda found: -found[0]):
            if bound <= best_score:
                break
            if sums.feasible(code):
                return code  # its score equals its upper bound, and all other bounds are lower
            found = best_of_sums(joined, self.scores, above=best_score)
            if found is not None:
                best, best_score = found, self.scores.of(sums, found)
        return best

    def _places_at(self, code: Code) -> Places:
        chosen = [
            None if number == ABSENT else row[number]
            for row, number in zip(self.places, code, strict=True)
        ]
        return tuple(
            tuple(chosen[layer] for layer in layers) for layers in self.priced.space.ranges
        )
