"""The cheapest and the costliest network, where a cost is the largest of a few sums over layers.

A latency is such a cost (``PriceModel.pieces``). The costliest network is easy to find: each sum is
maximised on its own, and the largest of these maxima is the greatest cost. Minimising each sum on
its own does not give the cheapest network: a network that minimises one sum may have a large other
sum. So branch and bound over layers finds the cheapest network. A partial solution is dropped if
another one is no larger in every sum, or if no completion of it costs less than the best known
network. The lower bound is a weighted mean of the sums: it is never above the largest sum, and its
minimum is found layer by layer (Lagrangian relaxation; Fisher 1981).

Glossary:

    w    weights of a mean of the sums, ``(pieces,)``; not negative, and their sum is 1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nas.latency.partial_solutions import ABSENT, PartialSolutions, unbeaten

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Code = tuple[int, ...]

_STEPS = 64  # steps of the search for weights that give a high bound
_KEPT_WEIGHTS = 8  # number of weights that bound partial solutions
_ROUNDING = 1e-12  # sums of the same addends in another order differ in their last digits
_SPANNED = 1e-10  # relative distance up to which a sum counts as a mean of two others
_RIVALS = 64  # with more than two independent sums: partial solutions to compare all others with


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest amount that one layer adds to each sum.

    Attributes:
        least: The choice that adds the least to each sum, ``(pieces,)``.
        greatest: The choice that adds the most, ``(pieces,)``.
        least_amounts: What these choices add to their sums, ``(pieces,)``.
        greatest_amounts: The same for the greatest.
    """

    least: Indices
    greatest: Indices
    least_amounts: Floats
    greatest_amounts: Floats

    @classmethod
    def of(cls, addends: Floats) -> Bounds:
        """Bounds of choices that add ``(choices, pieces)``."""
        least, greatest = addends.argmin(axis=0), addends.argmax(axis=0)
        pieces = np.arange(addends.shape[1])
        return cls(least, greatest, addends[least, pieces], addends[greatest, pieces])


@dataclass(frozen=True)
class Layers:
    """All networks that choices for layers can form, and the costs of the choices.

    Attributes:
        stages: Range of layers of every stage.
        depths: Possible numbers of layers of every stage.
        addends: Amount that each choice adds to each sum, one array ``(choices, pieces)`` a layer;
            amounts may be negative.
        base: Amount that every network has, ``(pieces,)``.
        bounds: Bounds of the layers, from a caller that keeps them; empty if they are unknown.
    """

    stages: Sequence[range]
    depths: Sequence[Sequence[int]]
    addends: Sequence[Floats]
    base: Floats
    bounds: Sequence[Bounds] = field(default=(), repr=False, kw_only=True)

    @staticmethod
    def of_fixed_depth(
        addends: Sequence[Floats], base: Floats, *, bounds: Sequence[Bounds] = ()
    ) -> Layers:
        """Networks that keep all layers."""
        return Layers([range(len(addends))], [[len(addends)]], addends, base, bounds=bounds)

    def sums(self, code: Code) -> Floats:
        """All sums of the network of these choices, ``(pieces,)``."""
        total = self.base.copy()
        for rows, number in zip(self.addends, code, strict=True):
            if number != ABSENT:
                total += rows[number]
        return total

    def cost(self, code: Code) -> float:
        """The largest sum of the network of these choices."""
        return float(self.sums(code).max())

    def least(self, weights: Floats) -> Code:
        """The choices with the least weighted sum of all sums."""
        code = [ABSENT] * len(self.addends)
        for layers, depths in zip(self.stages, self.depths, strict=True):
            means = [self.addends[layer] @ weights for layer in layers]
            totals = np.cumsum([row.min() for row in means])
            depth = min(depths, key=lambda d: float(totals[d - 1]))
            for layer, row in zip(layers[:depth], means, strict=False):
                code[layer] = int(row.argmin())
        return tuple(code)

    def least_of_each(self) -> list[Code]:
        """For every sum the choices that make it least."""
        bounds = self.bounds or [Bounds.of(rows) for rows in self.addends]
        amounts = np.array([each.least_amounts for each in bounds])
        return self._with_depths(np.array([each.least for each in bounds]), amounts)

    def greatest_of_each(self) -> list[Code]:
        """For every sum the choices that make it greatest."""
        bounds = self.bounds or [Bounds.of(rows) for rows in self.addends]
        amounts = np.array([-each.greatest_amounts for each in bounds])
        return self._with_depths(np.array([each.greatest for each in bounds]), amounts)

    def _with_depths(self, numbers: Indices, amounts: Floats) -> list[Code]:
        """Choices ``(layers, pieces)`` at the depths of least total amount; a code a sum."""
        for layers, depths in zip(self.stages, self.depths, strict=True):
            if len(layers) == depths[0]:  # the only depth
                continue
            totals = np.cumsum(amounts[layers.start : layers.stop], axis=0)
            chosen = np.array(depths)[totals[[depth - 1 for depth in depths]].argmin(axis=0)]
            absent = np.arange(len(layers))[:, None] >= chosen  # (layers of the stage, pieces)
            numbers[layers.start : layers.stop][absent] = ABSENT
        return [tuple(code) for code in numbers.T.tolist()]


def costliest(network: Layers) -> Code:
    """The choices of greatest cost, one a layer; ``ABSENT`` beyond a stage's depth."""
    return max(dict.fromkeys(network.greatest_of_each()), key=network.cost)


def cheapest(network: Layers) -> Code:
    """The choices of least cost, one a layer; ``ABSENT`` beyond a stage's depth."""
    codes = network.least_of_each()
    sums = {code: network.sums(code) for code in dict.fromkeys(codes)}  # mostly one code
    # the minimum of each sum is a lower bound of the largest sum
    bound = max(float(sums[code][piece]) for piece, code in enumerate(codes))
    best = min(sums, key=lambda code: float(sums[code].max()))
    if float(sums[best].max()) - bound <= _ROUNDING * abs(bound):
        return best
    spanning = _spanning(network)
    numbers = [pareto_rows(rows[:, spanning]) for rows in network.addends]
    few = Layers(
        network.stages,
        network.depths,
        [rows[kept] for rows, kept in zip(network.addends, numbers, strict=True)],
        network.base,
    )
    found = _branch_and_bound(few, spanning)
    named = tuple(
        ABSENT if index == ABSENT else int(kept[index])
        for kept, index in zip(numbers, found, strict=True)
    )
    return min(best, named, key=network.cost)


def _spanning(network: Layers) -> Indices:
    """Indices of pieces that suffice to compare networks.

    If a network is no larger than another one in these pieces, it is no larger in any piece. For a
    latency these are the first and the last piece: the slopes of ``PriceModel.pieces`` ascend, so
    the addends of the inner pieces are weighted means of the addends of these two.
    """
    rows = np.concatenate(list(network.addends))  # (choices of all layers, pieces)
    kept, last = [0], rows.shape[1] - 1
    for piece in range(1, last):
        pairs = ((kept[-1], other) for other in range(last, piece, -1))
        if not any(_is_mean(rows[:, piece], rows[:, i], rows[:, j]) for i, j in pairs):
            kept.append(piece)
    return np.array([*kept, last])


def _is_mean(row: Floats, one: Floats, other: Floats) -> bool:
    """Whether a row is a weighted mean of two others, up to rounding."""
    above, spread = row - one, other - one
    length = float(spread @ spread)
    share = float(above @ spread) / length if length else 0.0
    off = np.abs(above - share * spread).max()
    return bool(0 <= share <= 1 and off <= _SPANNED * np.abs(row).max())


def pareto_rows(amounts: Floats, *, rivals: int = _RIVALS) -> Indices:
    """Indices of the Pareto front of rows ``(n, pieces)``, ascending.

    A row is dropped if another one is at or below it in every piece. With more than two pieces and
    more rows than rivals a few dominated rows may stay, which costs time but does not change any
    optimum.

    Args:
        amounts: The rows.
        rivals: With more than two pieces: number of rows to compare all others with.
    """
    order = np.lexsort((*amounts.T[::-1],))
    if len(order) and (amounts >= amounts[order[0]]).all():
        return order[:1]
    if amounts.shape[1] <= 2:
        last = amounts[order, -1]
        least_before = np.r_[np.inf, np.minimum.accumulate(last)[:-1]]
        return np.sort(order[last < least_before])
    return np.sort(order[unbeaten(amounts[order], rivals)])


def _branch_and_bound(network: Layers, spanning: Indices) -> Code:
    """The choices of least cost."""
    pieces = len(network.base)
    ascended = sorted(_ascent(network), key=lambda step: -step.bound)
    best = min((step.code for step in ascended), key=network.cost)
    below = network.cost(best) * (1 - np.copysign(_ROUNDING, network.cost(best)))
    weights = [step.weights for step in ascended[:_KEPT_WEIGHTS]]
    means = np.column_stack([np.eye(pieces), *weights])  # (pieces, bounds)
    addends = [rows @ means for rows in network.addends]
    base, rest = network.base @ means, least_rest(network.stages, network.depths, addends)

    def promising(partials: PartialSolutions, *, stage: int, made: int) -> PartialSolutions:
        kept = partials.where((partials.amounts + base + rest[stage][made] < below).all(axis=1))
        return kept.where(pareto_rows(kept.amounts[:, spanning]))

    alive = PartialSolutions.none(means.shape[1])
    for stage, layers in enumerate(network.stages):
        ended: list[PartialSolutions] = []
        for made, layer in enumerate(layers, start=1):
            count = len(addends[layer])
            prune = partial(promising, stage=stage, made=made)
            alive = prune(alive.extended(addends[layer], np.zeros(count), np.arange(count), prune))
            if made in network.depths[stage]:
                end = alive.ended(0.0, len(layers) - made)
                ended.append(promising(end, stage=stage + 1, made=0))
        alive = promising(PartialSolutions.joined(ended), stage=stage + 1, made=0)
    codes = [tuple(row) for row in alive.codes.tolist()]
    return min([best, *codes], key=network.cost)


@dataclass(frozen=True)
class _Step:
    """The network with the least weighted mean. The mean is a lower bound of the least cost."""

    weights: Floats
    bound: float
    code: Code


def _ascent(network: Layers) -> Iterator[_Step]:
    """Weights that give higher and higher bounds: each step gives the largest sums more weight."""
    weights = np.full(len(network.base), 1 / len(network.base))
    for number in range(1, _STEPS + 1):
        code = network.least(weights)
        sums = network.sums(code)
        yield _Step(weights, float(sums @ weights), code)
        slope = (sums - sums.max()) / np.abs(sums).max()
        weights = weights * np.exp(slope / np.sqrt(number))
        weights = weights / weights.sum()


def least_rest(
    stages: Sequence[range], depths: Sequence[Sequence[int]], addends: Sequence[Floats]
) -> list[list[Floats]]:
    """The least amount of every piece that the remaining layers add.

    Args:
        stages: Range of layers of every stage.
        depths: Possible numbers of layers of every stage.
        addends: Amount that each choice adds, one array ``(choices, pieces)`` a layer.

    Returns:
        One array ``(pieces,)`` for every stage and number of its layers that are chosen already.
    """
    rest: list[list[Floats]] = [[np.zeros(addends[0].shape[1])]]
    for stage in range(len(stages) - 1, -1, -1):
        layers, later = stages[stage], rest[0][0]
        by_made = [later] * (len(layers) + 1)
        for made in range(len(layers) - 1, -1, -1):
            by_made[made] = by_made[made + 1] + addends[layers[made]].min(axis=0)
            if made in depths[stage]:
                by_made[made] = np.minimum(by_made[made], later)
        rest.insert(0, by_made)
    return rest
