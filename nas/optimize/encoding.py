"""Encodings: architectures of a constrained space as tuples of numbers, for black-box searchers.

An **encoding** (``Code``) has one number a layer: the index of the layer's choice, or ``ABSENT``
beyond a stage's depth. The cost of a network is a sum of numbers from a table. Several encodings
may be the same network, for example if one of two equal layers is left out. One of them is
**canonical**: the layers that are left out follow those that are kept. Searchers evaluate only
canonical encodings, so they evaluate no network twice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from latbench.errors import BudgetError
from nas.latency.extremes import least_rest
from nas.latency.partial_solutions import ABSENT, PartialSolutions
from nas.optimize.constraints import Constraint, Floats, Limit
from nas.spaces import Architecture, Choice, Layer

Code = tuple[int, ...]

_DUAL_STEPS = 64  # steps of the search for weights of pieces
_ROOM = 1.001  # factor that exceeds the rounding of a printed amount
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
        self._numbers = tuple({c: i for i, c in enumerate(row)} for row in self.choices)
        self.lightest = self._lightest()

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

    # random encodings, changes, lists

    def random(self, rng: np.random.Generator) -> Code:
        """Uniform depths and operations, then uniform widths; repaired if not feasible."""
        code = [ABSENT] * len(self.choices)
        for index, layers in enumerate(self.stages):
            depths = self.space.depths(index)
            for layer in layers[: int(rng.integers(depths.start, depths.stop))]:
                code[layer] = self.draw(layer, rng)
        return self.repair(tuple(code), rng)

    def draw(self, layer: int, rng: np.random.Generator) -> int:
        """Index of a random choice of a layer: a uniform operation, then a uniform width."""
        groups = self._groups[layer]
        group = groups[int(rng.integers(len(groups)))]
        return group[int(rng.integers(len(group)))]

    def change(self, layer: int, number: int, rng: np.random.Generator) -> int:
        """Index of another choice for a layer, for a mutation.

        A mix of kernels has one kernel added, dropped or resized, or all kernels drawn anew, with
        equal probability. Any other choice is drawn anew.
        """
        near = self._mixes[layer].get(number)
        if near and rng.random() < 0.5:
            return near[int(rng.integers(len(near)))]
        return self.draw(layer, rng)

    @cached_property
    def _mixes(self) -> tuple[dict[int, tuple[int, ...]], ...]:
        """For each layer and mix of kernels, the mixes that differ from it by one kernel."""
        known: dict[Layer, dict[int, tuple[int, ...]]] = {}
        for layer, choices in zip(self.space.layers, self.choices, strict=True):
            if layer not in known:
                counts = {i: Counter(c.kernels) for i, c in enumerate(choices) if c.kernels}
                known[layer] = {
                    i: tuple(j for j, theirs in counts.items() if _differ_by_one(ours, theirs))
                    for i, ours in counts.items()
                }
        return tuple(known[layer] for layer in self.space.layers)

    @cached_property
    def _groups(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Indices of the choices of each operation, by layer."""
        return tuple(
            tuple(
                tuple(i for i, choice in enumerate(choices) if choice.op == op)
                for op in dict.fromkeys(choice.op for choice in choices)
            )
            for choices in self.choices
        )

    def repair(self, code: Code, rng: np.random.Generator) -> Code:
        """A feasible canonical encoding near this one.

        Layers are changed in random order until the encoding is feasible. Each gets a random choice
        that makes it feasible or, if there is none, the choice of the lightest encoding. A stage
        may get shorter. In the worst case the result is the lightest encoding.
        """
        if self.feasible(code):
            return self.canonical(code)
        mended = list(code)
        for layer in rng.permutation(len(code)).tolist():
            if mended[layer] == self.lightest[layer] or mended[layer] == ABSENT:
                continue
            if self.lightest[layer] == ABSENT:  # end the stage before this layer
                stage = next(stage for stage in self.stages if layer in stage)
                mended[layer : stage.stop] = [ABSENT] * (stage.stop - layer)
            else:
                mended[layer] = self._fitting(mended, layer, rng)
            if self.feasible(tuple(mended)):
                return self.canonical(tuple(mended))
        return self.canonical(self.lightest)

    def _fitting(self, code: Sequence[int], layer: int, rng: np.random.Generator) -> int:
        """A random choice of a layer that makes the encoding feasible, or the lightest one's."""
        without = [*code[:layer], ABSENT, *code[layer + 1 :]]
        room = self.budgets - np.array(self.amounts(tuple(without)))
        fits = np.flatnonzero((self.addends[layer][:-1] <= room).all(axis=1))
        return int(rng.choice(fits)) if len(fits) else self.lightest[layer]

    def neighbours(self, code: Code) -> Iterator[Code]:
        """Canonical encodings, feasible or not, with one layer changed, added or removed."""
        for index, layers in enumerate(self.stages):
            depth = self.depths(code)[index]
            changed = [layers[i] for i in range(depth)]
            if depth + 1 in self.space.depths(index):
                changed.append(layers[depth])
            for layer in changed:
                for number in range(len(self.choices[layer])):
                    if number != code[layer]:
                        yield self.canonical((*code[:layer], number, *code[layer + 1 :]))
            if depth - 1 in self.space.depths(index):
                last = layers[depth - 1]
                yield self.canonical((*code[:last], ABSENT, *code[last + 1 :]))

    def nearest_new(
        self, code: Code, known: Collection[Code], rng: np.random.Generator
    ) -> Code | None:
        """The nearest feasible encoding that is not known, or None if all are known.

        The search is breadth first over feasible encodings. It goes on only from known ones.
        """
        if code not in known:
            return code
        queue, seen = deque([code]), {code}
        while queue:
            around = list(self.neighbours(queue.popleft()))
            for i in rng.permutation(len(around)).tolist():
                near: Code = around[i]
                if near not in seen and self.feasible(near):
                    if near not in known:
                        return near
                    seen.add(near)
                    queue.append(near)
        return None

    def all_codes(self, most: int) -> NDArray[np.int64] | None:
        """All feasible canonical encodings, ``(codes, layers)``, or None if the space is too large.

        Args:
            most: Largest number of encodings, feasible or not, that a listed space may have.
        """
        paths = 1
        stages = []
        for index, layers in enumerate(self.stages):
            rows: list[Code] = []
            for depth in self.space.depths(index):
                paths_here = np.prod([float(len(self.choices[i])) for i in layers[:depth]])
                if len(rows) + paths_here > most:
                    return None
                rest = (ABSENT,) * (len(layers) - depth)
                numbers = product(*(range(len(self.choices[i])) for i in layers[:depth]))
                rows += [(*row, *rest) for row in numbers]
            stages.append(rows)
            paths *= len(rows)
            if paths > most:
                return None
        codes = {self.canonical(sum(parts, ())) for parts in product(*stages)}
        listed = np.array(sorted(codes), dtype=np.int64)
        feasible = [self.feasible(tuple(row)) for row in listed.tolist()]
        return listed[np.flatnonzero(feasible)]

    # feasibility of the constraint

    def _lightest(self) -> Code:
        """The encoding of the least load; an error if it exceeds a budget.

        The minimum of a weighted sum of pieces is found layer by layer. With several pieces the
        weights move towards the pieces that exceed their budgets most (ascent of the Lagrangian
        dual). Then dynamic programming looks for an even lighter encoding.

        Raises:
            BudgetError: No encoding keeps the constraint.
        """
        weights = np.full(len(self.base), 1 / len(self.base))
        best = self._least(weights / self.budgets)
        if len(self.base) > 1:
            bound = -np.inf
            for step in range(_DUAL_STEPS):
                code = self._least(weights / self.budgets)
                loads = np.array(self.amounts(code)) / self.budgets
                best = min(best, code, key=self.load)
                if loads @ weights > bound:
                    bound, tightest = float(loads @ weights), weights
                weights = weights * np.exp((loads - loads.max()) / np.sqrt(step + 1))
                weights = weights / weights.sum()
            best = self._lighter(best, tightest)
        if not self.feasible(best):
            raise self._refusal(best)
        return best

    def _lighter(self, best: Code, weights: Floats) -> Code:
        """The encoding of the least load: this one, or a lighter one if there is any.

        A weighted mean of loads is a lower bound of the largest load. The best such mean is treated
        as one more piece.
        """

        def with_mean(amounts: Floats) -> Floats:
            loads: Floats = amounts / self.budgets
            return np.concatenate([loads, (loads @ weights)[..., None]], axis=-1)

        numbers = [undominated(np.zeros(len(rows) - 1), rows[:-1]) for rows in self.addends]
        addends = [with_mean(rows[n]) for rows, n in zip(self.addends, numbers, strict=True)]
        depths = [self.space.depths(index) for index in range(len(self.stages))]
        rest = least_rest(self.stages, depths, addends)
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
                if made in self.space.depths(stage):
                    end = alive.ended(0.0, len(layers) - made)
                    ended.append(lighter(end, rest=rest[stage + 1][0]))
            alive = PartialSolutions.joined(ended).undominated(room)
        codes = [tuple(row) for row in alive.codes.tolist()]
        return min([best, *codes], key=self.load)

    def _least(self, weights: Floats) -> Code:
        """The encoding with the least weighted sum of pieces."""
        code = [ABSENT] * len(self.choices)
        for index, layers in enumerate(self.stages):
            sums = [self.addends[layer][:-1] @ weights for layer in layers]
            least = np.cumsum([row.min() for row in sums])
            depths = self.space.depths(index)
            depth = min(depths, key=lambda d: float(least[d - 1]))
            for layer, row in zip(layers[:depth], sums, strict=False):
                code[layer] = int(row.argmin())
        return tuple(code)

    def _refusal(self, lightest: Code) -> BudgetError:
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
        found = self.by_limit(lightest)
        if len(kinds) == 1:
            found = [(limit, amount) for limit, amount in found if amount > limit.budget]
        nearest: dict[str, float] = {}
        for limit, amount in found:
            nearest[limit.quantity.kind] = max(amount, nearest.get(limit.quantity.kind, 0.0))
        asked = [
            f"{each.quantity.name} of {each.quantity.format(each.budget)}" for each, _ in found
        ]
        least = [limit.quantity.format(amount) for limit, amount in found]
        enough = [limit.quantity.format(amount * _ROOM) for limit, amount in found]
        if len(kinds) == 1:
            words = [
                f"{what} is out of reach: the least of space {self.space.name} is {amount}"
                for what, amount in zip(asked, least, strict=True)
            ]
            message = "; ".join(words)
        else:
            message = (
                f"{' and '.join(asked)} are out of reach together: the nearest architecture of "
                f"space {self.space.name} has {' and '.join(least)}"
            )
        return BudgetError(
            f"{message}; ask for {' and '.join(enough)} or more",
            nearest_ms=nearest.get("latency"),
            nearest_macs_m=nearest["macs"] / 1e6 if "macs" in nearest else None,
            nearest_params_m=nearest["params"] / 1e6 if "params" in nearest else None,
        )


def _differ_by_one(ours: Counter[int], theirs: Counter[int]) -> bool:
    """Whether two mixes differ by one kernel that is added, dropped or resized."""
    added, dropped = (theirs - ours).total(), (ours - theirs).total()
    return max(added, dropped) == 1


def undominated(gains: Floats, addends: Floats) -> NDArray[np.int64]:
    """Indices of the Pareto front of a layer's choices, by score and all amounts."""
    order = np.lexsort((*addends.T, -gains))
    kept: list[int] = []
    for number in order.tolist():
        if not any((addends[rival] <= addends[number]).all() for rival in kept):
            kept.append(number)
    return np.array(sorted(kept), dtype=np.int64)
