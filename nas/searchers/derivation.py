"""From relaxed choices to one architecture under a hard budget.

The most probable architecture may not be able to meet the target at any widths. It may be too slow
at its narrowest widths, or so fast at its widest ones that it leaves some of the budget unused. So
the search looks at the operations and depths whose range of latencies over all widths includes the
target. It finds the most probable of them exactly (``nas.optimize.exact_solver``), and scales their
widths to just below the target.

The range of latencies follows from sums over layers, because a latency is the largest of a few
sums. A network is within the target if all of its sums are. So an operation becomes one choice for
each of its widths that no other width beats in all sums. The greatest latency is at or above the
target if any of the greatest sums is; this needs one solution for each sum.

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

from nas.latency.correction import Propose, Range
from nas.latency.extremes import pareto_rows
from nas.latency.feasible_range import check_feasible
from nas.latency.partial_solutions import ABSENT
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Places, Widths
from nas.latency.width_scaling import Fit, fit_exact
from nas.optimize.encoding import Code
from nas.optimize.exact_solver import Scores, Sums, best_of_sums
from nas.spaces import Architecture, Choice, SearchSpace

Floats = NDArray[np.float64]

CLOSE_ENOUGH = 0.005  # relative gap below the target at which the search ends
_ROOMS = (
    0.0,
    0.01,
    0.03,
)  # margins beyond the target: near the ends of a range few widths are left
_MARGIN = 0.05  # assumed relative error of a table that states none
_BISECTIONS = 10  # bisection steps towards the greatest feasible latency below an infeasible target
_ROUNDING = 1e-9  # sums of the same prices in another order differ in their last digits


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
class Derived(Fit):
    """An architecture under a target, and the layers of the space that it uses."""

    places: Places


def derive(
    priced: PricedSpace,
    log: LogProbabilities,
    *,
    widths: Widths,
    target_ms: float,
    elastic: bool = True,
) -> Derived:
    """The most probable architecture that widths can bring to just below the target.

    If the widths of no operations and depths reach the target, those that come closest from below
    are taken.

    Args:
        priced: The space and its prices.
        log: Log probabilities of all choices.
        widths: Present width of every operation.
        target_ms: Latency that is never exceeded.
        elastic: Whether widths may change. Otherwise the result is the most probable architecture
            below the target at the present widths.

    Raises:
        BudgetError: No architecture meets the target.
    """
    check_feasible(target_ms, *priced.feasible_ms(), what=f"space {priced.space.name}")
    if not elastic:
        return _derive_rigid(priced, log, widths, target_ms)
    return _derive_elastic(Candidates.of_any_width(priced, log), widths, target_ms)


def proposals(
    priced: PricedSpace, log: LogProbabilities, *, widths: Widths, elastic: bool = True
) -> Propose[Derived]:
    """A function that proposes architectures to a correction.

    It proposes the most probable architecture whose widths cover the range that the correction asks
    for. If possible the widths cover a margin beyond the range, as wide as the error of the table's
    latencies. Then the correction can end by changing widths, without other operations.
    """
    if not elastic:
        return lambda aim_ms, _: derive(priced, log, widths=widths, target_ms=aim_ms, elastic=False)
    margin = priced.table.price_model.half_width() or _MARGIN
    candidates = Candidates.of_any_width(priced, log)

    def propose(aim_ms: float, width_range_ms: Range) -> Derived:
        low_ms, high_ms = width_range_ms
        for beyond in (margin, 0.0):
            reach = (low_ms * (1 - beyond), high_ms * (1 + beyond))
            found = _derive_reaching(candidates, widths, aim_ms, reach)
            if found is not None:
                return found
        check_feasible(aim_ms, *priced.feasible_ms(), what=f"space {priced.space.name}")
        return _derive_elastic(candidates, widths, aim_ms)

    return propose


def most_probable(log: LogProbabilities) -> Places:
    """The operations and depths of the largest probability, without regard to latency."""
    places = []
    for s, rows in enumerate(log.ops):
        depth = int(np.argmax(log.depths[s])) + 1
        stage: list[int | None] = [None] * len(rows)
        for i, row in enumerate(rows[:depth]):
            op = int(np.argmax(row))
            stage[i] = op if row[op] >= log.skip(s, i) else None
        places.append(tuple(stage))
    return tuple(places)


def architecture_at(space: SearchSpace, places: Places, widths: Widths) -> Architecture:
    """The architecture without the layers that are left out."""
    return space.architecture(
        [
            [
                Choice(layer.ops[op], widths[s][i][layer.ops[op]])
                for i, (layer, op) in enumerate(zip(space.stages[s], stage, strict=True))
                if op is not None
            ]
            for s, stage in enumerate(places)
        ]
    )


def places_of(space: SearchSpace, architecture: Architecture) -> Places:
    """Operations of an architecture on the first layers of every stage."""
    return tuple(
        tuple(
            layers[i].ops.index(stage[i].op) if i < len(stage) else None for i in range(len(layers))
        )
        for layers, stage in zip(space.stages, architecture.stages, strict=True)
    )


def _derive_elastic(candidates: Candidates, widths: Widths, target_ms: float) -> Derived:
    """The most probable architecture that widths bring to the target, or closest from below."""
    found = _derive_reaching(
        candidates, widths, target_ms, (target_ms, target_ms * (1 - CLOSE_ENOUGH))
    )
    if found is not None:
        return found
    low_ms, high_ms = candidates.priced.feasible_ms()[0], target_ms
    for _ in range(_BISECTIONS):
        middle_ms = (low_ms + high_ms) / 2
        if candidates.most_probable((target_ms, middle_ms)) is None:
            high_ms = middle_ms
        else:
            low_ms = middle_ms
    found = _derive_reaching(candidates, widths, target_ms, (target_ms, low_ms))
    assert found is not None  # the fastest architecture of the space is always found
    return found


def _derive_reaching(
    candidates: Candidates, widths: Widths, target_ms: float, width_range_ms: Range
) -> Derived | None:
    """The most probable architecture whose widths span a range, scaled to a target.

    If its widths miss the target by more than ``CLOSE_ENOUGH``, the range is widened: near the ends
    of an architecture's range few widths are left. None if no architecture covers the range.
    """
    priced, best = candidates.priced, None
    low_ms, high_ms = width_range_ms
    for room in _ROOMS:
        places = candidates.most_probable((low_ms * (1 - room), high_ms * (1 + room)))
        if places is None:
            break
        start = architecture_at(priced.space, places, widths)
        fitted = fit_exact(priced, start, target_ms, clamp=True)
        if fitted.latency_ms > target_ms * (1 + _ROUNDING):
            continue
        if best is None or fitted.latency_ms > best.latency_ms:
            best = Derived(**vars(fitted), places=places)
        if best.latency_ms >= target_ms * (1 - CLOSE_ENOUGH):
            break
    return best


def _derive_rigid(
    priced: PricedSpace, log: LogProbabilities, widths: Widths, target_ms: float
) -> Derived:
    """The most probable architecture below the target at the present widths.

    If there is none, it is the fastest architecture of the space at any widths.
    """
    places = Candidates.of_widths(priced, log, widths).most_probable((target_ms, None))
    if places is None:
        made = priced.extremes()[0]
        places = places_of(priced.space, made)
    else:
        made = architecture_at(priced.space, places, widths)
    latency_ms = priced.latency_ms(made)
    return Derived(target_ms, latency_ms, latency_ms, latency_ms, made, places)


@dataclass(frozen=True)
class Candidates:
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
    def of_any_width(cls, priced: PricedSpace, log: LogProbabilities) -> Candidates:
        """Choices with elastic widths."""
        space = priced.space
        addends = [
            [[priced.addends_ms(layer, op)[1] for op in layer.ops] for layer in layers]
            for layers in space.stages
        ]
        return cls._of(priced, log, addends)

    @classmethod
    def of_widths(cls, priced: PricedSpace, log: LogProbabilities, widths: Widths) -> Candidates:
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
    ) -> Candidates:
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
        budgets_ms = np.full(len(base_ms), low_ms * (1 + _ROUNDING))
        sums = Sums(self.priced.space.ranges, self.depths, self.least_ms, base_ms, budgets_ms)
        if high_ms is None:
            best = best_of_sums(sums, self.scores)
        else:
            best = self._most_probable_up_to(high_ms * (1 - _ROUNDING), sums)
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
