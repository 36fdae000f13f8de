"""From relaxed choices to one architecture under a hard budget.

The most probable architecture may lie out of reach of the target, whatever its widths: too slow
at its narrowest, or too fast at its widest, which would leave some of the budget unused. Of the
operations and depths whose widths reach the target the most probable are found exactly
(``nas.optimize.exact_solver``), and their widths are scaled to just below it.

What widths reach is decided by sums over layers. A latency is the largest of a few such sums, so a
network is within the target if all of its sums are: an operation stands there once for every width
that no other width beats in all of them. The greatest latency reaches the target if any one of the
greatest sums does: one solution for each.

How probable is counted against the best choice of each layer. The plain product of probabilities
would have every further layer cost its operation's probability, an eighth while nothing is
decided, and end with one layer a stage whatever the betas say: an architecture of more layers is
one of more alternatives, not a worse one. Counted so, the argmax of each choice is the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.latency.correction import Propose, Range
from nas.latency.extremes import pareto_rows
from nas.latency.partial_solutions import ABSENT
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Places, Widths
from nas.latency.width_scaling import Fit, check_feasible, fit_exact
from nas.optimize.encoding import Code
from nas.optimize.exact_solver import Scores, Sums, best_of_sums
from nas.spaces import Architecture, Choice, SearchSpace

Floats = NDArray[np.float64]

CLOSE_ENOUGH = 0.005  # a fit within this fraction below the target ends the search
_ROOMS = (0.0, 0.01, 0.03)  # beyond the target, where few widths are left at the ends of a reach
_MARGIN = 0.05  # what a table that says nothing of its errors is taken to be off by
_BISECTIONS = 10  # of the greatest latency that is reached below a target that is not
_ROUNDING = 1e-9  # sums of the same prices in another order differ in their last digits


@dataclass(frozen=True)
class LogProbabilities:
    """Log probabilities of all choices.

    Attributes:
        ops: By stage and layer: of every operation.
        depths: By stage: of depth 1, 2, ...
        skips: By stage and layer: of leaving the layer out, where layers can be; the layers after
            it move up.
    """

    ops: Sequence[Sequence[Sequence[float]]]
    depths: Sequence[Sequence[float]]
    skips: Sequence[Sequence[float]] = ()

    def skip(self, stage: int, layer: int) -> float:
        return self.skips[stage][layer] if self.skips else -np.inf

    def choice(self, stage: int, layer: int) -> list[float]:
        """Of every operation and of leaving the layer out, less that of the best of them."""
        row = [*self.ops[stage][layer], self.skip(stage, layer)]
        return [value - max(row) for value in row]


@dataclass(frozen=True)
class Derived(Fit):
    """An architecture under a target, and which layers of the space it stands on."""

    places: Places


def derive(
    priced: PricedSpace,
    log: LogProbabilities,
    *,
    widths: Widths,
    target_ms: float,
    elastic: bool = True,
) -> Derived:
    """The most probable architecture that can be brought to just below the target.

    Where no operations and depths reach the target, those that come closest from below.

    Args:
        priced: The space and its prices.
        log: Log probabilities of all choices.
        widths: Present width of every operation.
        target_ms: Never exceeded.
        elastic: Whether widths may be changed; else the most probable architecture below the
            target at the present widths.

    Raises:
        BudgetError: No architecture reaches the target.
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
    """The operations and depths of largest probability, whatever their latency."""
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
    """The architecture that is left when what is left out is gone."""
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
    """An architecture on the first layers of every stage."""
    return tuple(
        tuple(
            layers[i].ops.index(stage[i].op) if i < len(stage) else None for i in range(len(layers))
        )
        for layers, stage in zip(space.stages, architecture.stages, strict=True)
    )


def _derive_elastic(candidates: Candidates, widths: Widths, target_ms: float) -> Derived:
    """The most probable architecture that can be brought to the target, or closest from below."""
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
    assert found is not None  # the fastest architecture of the space is one
    return found


def _derive_reaching(
    candidates: Candidates, widths: Widths, target_ms: float, width_range_ms: Range
) -> Derived | None:
    """The most probable architecture whose widths span a range, scaled to a target.

    Where its widths miss the target by more than is close enough, the range is widened: at the
    ends of what an architecture reaches few widths are left. None if no architecture spans it.
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

    The fastest of the space, whatever its widths, if there is none.
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
    """All that can be chosen, how probable it is, and what it adds to a latency.

    Attributes:
        places: By layer, the operation of every choice; None leaves the layer out. An operation
            is a choice for each of its widths that no other width beats in all pieces.
        scores: Of the choices, and of the depths of every stage.
        depths: By stage, how many layers it may have.
        least_ms: By layer, what each choice adds at its width, ``(choices, pieces)``.
        most_ms: By layer, the most that the choice's operation adds at any width.
    """

    priced: PricedSpace
    places: Sequence[Sequence[int | None]]
    scores: Scores
    depths: Sequence[Sequence[int]]
    least_ms: Sequence[Floats]
    most_ms: Sequence[Floats]

    @classmethod
    def of_any_width(cls, priced: PricedSpace, log: LogProbabilities) -> Candidates:
        """Operations are given whatever width they may have."""
        space = priced.space
        addends = [
            [[priced.addends_ms(layer, op)[1] for op in layer.ops] for layer in layers]
            for layers in space.stages
        ]
        return cls._of(priced, log, addends)

    @classmethod
    def of_widths(cls, priced: PricedSpace, log: LogProbabilities, widths: Widths) -> Candidates:
        """Operations keep their present widths."""
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
        """From what every operation may add: by stage, layer and operation ``(widths, pieces)``."""
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
        """The most probable operations and depths whose widths span a range.

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
        """The most probable that keep the budgets and of which some piece reaches a latency.

        Without the budgets each piece's best is an upper bound and found soon, and most keep them.
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
                return code  # its score is its bound, which nothing to come or found exceeds
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
