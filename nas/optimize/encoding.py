"""Encodings: architectures of a constrained space as tuples of numbers, for black-box searchers.

An **encoding** (``Code``) has one number a layer: the index of the layer's choice, or ``ABSENT``
beyond a stage's depth. The cost of a network is a sum of numbers from a table. Several encodings
may be the same network, for example if one of two equal layers is left out. One of them is
**canonical**: the layers that are left out follow those that are kept. Searchers evaluate only
canonical encodings, so they evaluate no network twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from latbench.errors import BudgetError
from nas.latency.extremes import Layers, least_rest, pareto_rows
from nas.latency.partial_solutions import ABSENT, PartialSolutions
from nas.optimize.constraints import Constraint, Floats, Limit
from nas.optimize.infeasible import out_of_reach
from nas.spaces import Architecture, Choice, Layer

Code = tuple[int, ...]

_DUAL_STEPS = 64  # steps of the search for weights of pieces
_ROUNDING = 1e-12  # sums of the same addends in another order differ in their last digits


class EncodedSpace:
    """A space under a constraint: its numbered choices and their costs.

    Args:
        constraint: Limits that architectures must keep.

    Raises:
        BudgetError: No architecture keeps the constraint. Carries the nearest feasible budgets.
        MismatchError: A table does not price an operation.

    Attributes:
        choices: Choices of each layer, by index.
        addends: Amounts that the choices of each layer add, ``(choices + 1, pieces)``. The last
            row is zero and belongs to ``ABSENT``.
        stages: Range of layers of every stage.
        layers: The same choices and amounts, without rows for ``ABSENT``.
        lightest: Encoding of the least load.
    """

    def __init__(self, constraint: Constraint) -> None:
        self.constraint = constraint
        self.space = space = constraint.space
        self.base = constraint.base()
        self.budgets = constraint.budgets()
        known: dict[Layer, tuple[tuple[Choice, ...], Floats]] = {}
        for layer in space.layers:
            if layer not in known:
                choices = constraint.choices(layer)
                addends = constraint.addends(layer, choices)
                known[layer] = choices, np.vstack([addends, np.zeros((1, len(self.base)))])
        self.choices = tuple(known[layer][0] for layer in space.layers)
        self.addends = tuple(known[layer][1] for layer in space.layers)
        self._rows = tuple(table.tolist() for table in self.addends)
        self._left_out = tuple(
            frozenset(i for i, c in enumerate(choices) if layer.block(c) is None)
            for layer, choices in zip(space.layers, self.choices, strict=True)
        )
        self.stages = space.ranges
        self.layers = Layers(
            self.stages,
            [space.depths(stage) for stage in range(len(self.stages))],
            [table[:-1] for table in self.addends],
            self.base,
        )
        self._numbers = tuple({c: i for i, c in enumerate(row)} for row in self.choices)
        self.lightest = self._lightest()
        if not self.feasible(self.lightest):
            raise self._refusal()

    # encodings and architectures

    def encode(self, architecture: Architecture) -> Code:
        """The canonical encoding of an architecture of this space."""
        code = [ABSENT] * len(self.choices)
        for layers, stage in zip(self.stages, architecture.stages, strict=True):
            for layer, choice in zip(layers, stage, strict=False):
                code[layer] = self._numbers[layer][choice]
        return self.canonical(tuple(code))

    def decode(self, code: Code) -> Architecture:
        return self.space.architecture(
            [
                [self.choices[layer][code[layer]] for layer in layers if code[layer] != ABSENT]
                for layers in self.stages
            ]
        )

    def canonical(self, code: Code) -> Code:
        """The canonical encoding of the same network.

        Within a run of equal layers, those that are left out come last. Layers at the end of a
        stage that are left out still count as depth, because an architecture distinguishes the two.
        """
        moved = list(code)
        for run in self._runs:
            kept = [code[i] for i in run if code[i] not in self._left_out[i]]
            if len(kept) < len(run):
                out = [code[i] for i in run if code[i] in self._left_out[i]]
                present = [number for number in kept if number != ABSENT]
                moved[run.start : run.stop] = present + out + [ABSENT] * (len(kept) - len(present))
        return tuple(moved)

    @cached_property
    def _runs(self) -> tuple[range, ...]:
        """Maximal runs of equal layers that can be left out."""
        layers, runs = self.space.layers, []
        for stage in self.stages:
            begin = stage.start
            for end in range(stage.start + 1, stage.stop + 1):
                if end == stage.stop or layers[end] != layers[begin]:
                    if end - begin > 1 and self._left_out[begin]:
                        runs.append(range(begin, end))
                    begin = end
        return tuple(runs)

    def depths(self, code: Code) -> list[int]:
        """Depth of each stage."""
        return [sum(code[layer] != ABSENT for layer in layers) for layers in self.stages]

    # costs of encodings

    def amounts(self, code: Code) -> list[float]:
        """Amounts of all pieces of all quantities. A quantity is its largest piece."""
        totals: list[float] = self.base.tolist()
        for rows, number in zip(self._rows, code, strict=True):
            for piece, addend in enumerate(rows[number]):
                totals[piece] += addend
        return totals

    def by_limit(self, code: Code) -> list[tuple[Limit, float]]:
        """Every limit, and the amount of its quantity."""
        left = iter(self.amounts(code))
        return [
            (limit, max(next(left) for _ in limit.quantity.base))
            for limit in self.constraint.limits
        ]

    def latency_ms(self, code: Code) -> float | None:
        """Latency on the slowest device of the constraint; None without a latency limit."""
        found = self.by_limit(code)
        latencies = (amount for limit, amount in found if limit.quantity.kind == "latency")
        return max(latencies, default=None)

    def load(self, code: Code) -> float:
        """The largest ratio of an amount to its budget; feasible up to 1."""
        return max(a / b for a, b in zip(self.amounts(code), self._budgets, strict=True))

    def feasible(self, code: Code) -> bool:
        return all(a <= b for a, b in zip(self.amounts(code), self._budgets, strict=True))

    @cached_property
    def _budgets(self) -> list[float]:
        return [float(budget) for budget in self.budgets]

    def loads(self, codes: NDArray[np.int64]) -> Floats:
        """Loads ``(codes,)`` of many encodings ``(codes, layers)`` at once."""
        totals = np.repeat(self.base[None], len(codes), axis=0)
        for layer, table in enumerate(self.addends):
            totals += table[codes[:, layer]]
        largest: Floats = (totals / self.budgets).max(axis=1)
        return largest

    @cached_property
    def near_mixes(self) -> tuple[dict[int, tuple[int, ...]], ...]:
        """For each layer and mix of kernels, the mixes that differ from it by one kernel."""
        known: dict[Layer, dict[int, tuple[int, ...]]] = {}
        for layer, choices in zip(self.space.layers, self.choices, strict=True):
            if layer not in known:
                mixes = {i: c.kernels for i, c in enumerate(choices) if c.kernels}
                near = _differ_by_one(list(mixes.values()))
                known[layer] = {
                    i: tuple(j for j, is_near in zip(mixes, row, strict=True) if is_near)
                    for i, row in zip(mixes, near, strict=True)
                }
        return tuple(known[layer] for layer in self.space.layers)

    @cached_property
    def groups(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Indices of the choices of each operation, by layer."""
        return tuple(
            tuple(
                tuple(i for i, choice in enumerate(choices) if choice.op == op)
                for op in dict.fromkeys(choice.op for choice in choices)
            )
            for choices in self.choices
        )

    # feasibility of the constraint

    def _lightest(self) -> Code:
        """The encoding of the least load.

        The minimum of a weighted sum of pieces is found layer by layer. With several pieces the
        weights move towards the pieces that exceed their budgets most (ascent of the Lagrangian
        dual). Then dynamic programming looks for an even lighter encoding.
        """
        weights = np.full(len(self.base), 1 / len(self.base))
        best = self.layers.least(weights / self.budgets)
        if len(self.base) > 1:
            bound = -np.inf
            for step in range(_DUAL_STEPS):
                code = self.layers.least(weights / self.budgets)
                loads = np.array(self.amounts(code)) / self.budgets
                best = min(best, code, key=self.load)
                if loads @ weights > bound:
                    bound, tightest = float(loads @ weights), weights
                weights = weights * np.exp((loads - loads.max()) / np.sqrt(step + 1))
                weights = weights / weights.sum()
            best = self._lighter(best, tightest)
        return best

    def _lighter(self, best: Code, weights: Floats) -> Code:
        """The encoding of the least load: this one, or a lighter one if there is any.

        A weighted mean of loads is a lower bound of the largest load. The best such mean is treated
        as one more piece.
        """

        def with_mean(amounts: Floats) -> Floats:
            loads: Floats = amounts / self.budgets
            return np.concatenate([loads, (loads @ weights)[..., None]], axis=-1)

        numbers = [pareto_rows(rows, rivals=len(rows)) for rows in self.layers.addends]
        addends = [with_mean(rows[n]) for rows, n in zip(self.layers.addends, numbers, strict=True)]
        rest = least_rest(self.stages, self.layers.depths, addends)
        base, room = with_mean(self.base), np.ones(len(self.base) + 1)
        at_most = self.load(best) * (1 - _ROUNDING)

        def lighter(partials: PartialSolutions, *, rest: Floats) -> PartialSolutions:
            kept = (partials.amounts + base + rest < at_most).all(axis=1)
            return partials.where(np.flatnonzero(kept))

        alive = PartialSolutions.none(len(room))
        for stage, layers in enumerate(self.stages):
            ended: list[PartialSolutions] = []
            for made, layer in enumerate(layers, start=1):
                alive = alive.extended(
                    addends[layer],
                    np.zeros(len(numbers[layer])),
                    numbers[layer],
                    partial(lighter, rest=rest[stage][made]),
                ).undominated(room)
                if made in self.layers.depths[stage]:
                    end = alive.ended(0.0, len(layers) - made)
                    ended.append(lighter(end, rest=rest[stage + 1][0]))
            alive = PartialSolutions.joined(ended).undominated(room)
        codes = [tuple(row) for row in alive.codes.tolist()]
        return min([best, *codes], key=self.load)

    def _refusal(self) -> BudgetError:
        """The error for an infeasible constraint: one kind of quantity alone, or all together."""
        limits = self.constraint.limits
        kinds = dict.fromkeys(limit.quantity.kind for limit in limits)
        if len(kinds) > 1:
            for kind in kinds:
                alone = tuple(limit for limit in limits if limit.quantity.kind == kind)
                try:
                    EncodedSpace(Constraint(alone))
                except BudgetError as refusal:
                    return refusal
        return out_of_reach(self.space.name, self.by_limit(self.lightest))


def _differ_by_one(mixes: Sequence[tuple[int, ...]]) -> list[list[bool]]:
    """Whether each two mixes differ by one kernel that is added, dropped or resized."""
    kernels = sorted({kernel for mix in mixes for kernel in mix})
    counts = np.array([[mix.count(kernel) for kernel in kernels] for mix in mixes])
    if not mixes:
        return []
    change = counts[None] - counts[:, None]  # (mixes, mixes, kernels), from the first to the second
    added, dropped = np.maximum(change, 0).sum(-1), np.maximum(-change, 0).sum(-1)
    found: list[list[bool]] = (np.maximum(added, dropped) == 1).tolist()
    return found
