"""Architectures of a constrained space as tuples of numbers: what black-box searchers work on.

A **code** has one number a layer: the index of the layer's choice, or ``ABSENT`` beyond a stage's
depth. What a network takes of a budget is a sum of looked-up numbers. Different codes may be the
same network, as where one of two equal layers is left out; the **canonical** code stands for all
of them, with what is left out moved behind what is kept, so that no network is met twice.
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

_DUAL_STEPS = 64  # of the search for weights of pieces
_ROOM = 1.001  # more than what printing an amount rounds off
_ROUNDING = 1e-12  # sums of the same addends in another order differ in their last digits


class EncodedSpace:
    """The choices of a space under a constraint, numbered, with what each takes of the budgets.

    Args:
        constraint: What architectures must not exceed.

    Raises:
        BudgetError: No architecture keeps the constraint; carries the nearest feasible latency.
        MismatchError: A table leaves an operation without a price.

    Attributes:
        choices: By layer, the choice of every index.
        addends: By layer, what each choice adds, ``(choices + 1, pieces)``; the last row, of
            zeros, is that of ``ABSENT``.
        stages: The range of layers of every stage.
        lightest: A code that takes least of the budgets.
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

    # codes and architectures

    def encode(self, architecture: Architecture) -> Code:
        """The canonical code of an architecture that is made of this space's choices."""
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
        """The code that stands for all that lower to the same network as this one.

        Within a run of equal layers, those left out come last; trailing layers that are left
        out stay in the depth, as depth and being left out are told apart by the architecture.
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
        """How many layers of each stage are kept."""
        return [sum(code[layer] != ABSENT for layer in layers) for layers in self.stages]

    # what codes take of the budgets

    def amounts(self, code: Code) -> list[float]:
        """Of every piece of every quantity, by look-up; a quantity is its largest piece."""
        totals: list[float] = self.base.tolist()
        for rows, number in zip(self._rows, code, strict=True):
            for piece, addend in enumerate(rows[number]):
                totals[piece] += addend
        return totals

    def by_limit(self, code: Code) -> list[tuple[Limit, float]]:
        """Every limit, and what the code has of its quantity."""
        left = iter(self.amounts(code))
        return [
            (limit, max(next(left) for _ in limit.quantity.base))
            for limit in self.constraint.limits
        ]

    def latency_ms(self, code: Code) -> float | None:
        """Latency on the slowest device of the constraint; None where it limits no latency."""
        found = self.by_limit(code)
        latencies = (amount for limit, amount in found if limit.quantity.kind == "latency")
        return max(latencies, default=None)

    def load(self, code: Code) -> float:
        """The largest amount over its budget: feasible up to 1."""
        return max(a / b for a, b in zip(self.amounts(code), self._budgets, strict=True))

    def feasible(self, code: Code) -> bool:
        return all(a <= b for a, b in zip(self.amounts(code), self._budgets, strict=True))

    @cached_property
    def _budgets(self) -> list[float]:
        return [float(budget) for budget in self.budgets]

    def loads(self, codes: NDArray[np.int64]) -> Floats:
        """``load`` of many codes ``(codes, layers)`` at once, ``(codes,)``."""
        totals = np.repeat(self.base[None], len(codes), axis=0)
        for layer, table in enumerate(self.addends):
            totals += table[codes[:, layer]]
        largest: Floats = (totals / self.budgets).max(axis=1)
        return largest

    # drawing, changing, listing

    def random(self, rng: np.random.Generator) -> Code:
        """Depths and operations uniform, then widths; repaired where it exceeds the budget."""
        code = [ABSENT] * len(self.choices)
        for index, layers in enumerate(self.stages):
            depths = self.space.depths(index)
            for layer in layers[: int(rng.integers(depths.start, depths.stop))]:
                code[layer] = self.draw(layer, rng)
        return self.repair(tuple(code), rng)

    def draw(self, layer: int, rng: np.random.Generator) -> int:
        """An index of a layer's choices: operations uniform, then their widths."""
        groups = self._groups[layer]
        group = groups[int(rng.integers(len(groups)))]
        return group[int(rng.integers(len(group)))]

    def change(self, layer: int, number: int, rng: np.random.Generator) -> int:
        """Another choice for a layer, as a mutation makes it.

        Of a mix of kernels one kernel is added, dropped or resized, or all are drawn anew, one as
        likely as the other; any other choice is drawn anew.
        """
        near = self._mixes[layer].get(number)
        if near and rng.random() < 0.5:
            return near[int(rng.integers(len(near)))]
        return self.draw(layer, rng)

    @cached_property
    def _mixes(self) -> tuple[dict[int, tuple[int, ...]], ...]:
        """By layer: of every mix of kernels, the mixes that differ from it by one kernel."""
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
        """By layer, by operation, its indices."""
        return tuple(
            tuple(
                tuple(i for i, choice in enumerate(choices) if choice.op == op)
                for op in dict.fromkeys(choice.op for choice in choices)
            )
            for choices in self.choices
        )

    def repair(self, code: Code, rng: np.random.Generator) -> Code:
        """A feasible canonical code near this one, by as few changes of layers as it takes.

        Layers in random order, those of stages that may be shortened too, are given a random
        choice that fits or, where none does, what the lightest code has there; so the lightest
        code itself is the end at the latest.
        """
        if self.feasible(code):
            return self.canonical(code)
        mended = list(code)
        for layer in rng.permutation(len(code)).tolist():
            if mended[layer] == self.lightest[layer] or mended[layer] == ABSENT:
                continue
            if self.lightest[layer] == ABSENT:  # shorten the stage to before this layer
                stage = next(stage for stage in self.stages if layer in stage)
                mended[layer : stage.stop] = [ABSENT] * (stage.stop - layer)
            else:
                mended[layer] = self._fitting(mended, layer, rng)
            if self.feasible(tuple(mended)):
                return self.canonical(tuple(mended))
        return self.canonical(self.lightest)

    def _fitting(self, code: Sequence[int], layer: int, rng: np.random.Generator) -> int:
        """A choice of one layer with which the code is feasible, else the lightest code's."""
        without = [*code[:layer], ABSENT, *code[layer + 1 :]]
        room = self.budgets - np.array(self.amounts(tuple(without)))
        fits = np.flatnonzero((self.addends[layer][:-1] <= room).all(axis=1))
        return int(rng.choice(fits)) if len(fits) else self.lightest[layer]

    def neighbours(self, code: Code) -> Iterator[Code]:
        """Canonical codes, feasible or not, with one layer chosen anew, added or removed."""
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
        """The feasible code fewest changes away that is not known, or None if all are known.

        Breadth first over feasible codes: it passes through known ones only, so it ends.
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
        """All feasible canonical codes, ``(codes, layers)``, or None if there may be more.

        Args:
            most: Codes of the whole space, feasible or not, that are worth listing.
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

    # the bounds of the constraint

    def _lightest(self) -> Code:
        """The code of least load; refused if it exceeds a budget.

        Of a weighted sum of pieces the least is found layer by layer. With several pieces the
        weights are moved towards those that exceed their budget most (ascent of the Lagrangian
        dual), and dynamic programming looks for what is lighter still.

        Raises:
            BudgetError: No code keeps the constraint.
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
        """The code of least load: this one, or a lighter one if there is any.

        Every weighted mean of loads is a lower bound of the largest, so the best one is treated
        as one piece more.
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
        """The code of least weighted sum of pieces."""
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
        """What is out of reach: one kind of quantity alone, else all that are limited together."""
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
    """Whether one kernel was added, dropped or resized."""
    added, dropped = (theirs - ours).total(), (ours - theirs).total()
    return max(added, dropped) == 1


def undominated(gains: Floats, addends: Floats) -> NDArray[np.int64]:
    """Indices of a layer's choices that no other beats in score and in every amount at once."""
    order = np.lexsort((*addends.T, -gains))
    kept: list[int] = []
    for number in order.tolist():
        if not any((addends[rival] <= addends[number]).all() for rival in kept):
            kept.append(number)
    return np.array(sorted(kept), dtype=np.int64)
