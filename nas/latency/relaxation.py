"""A relaxed architecture: a probability for every choice of a space. Its expected latency.

This module is pure Python. A weight is a float or a torch scalar. The same arithmetic serves both,
so the expectation is differentiable if the weights are.

Glossary, after TF-NAS (Hu et al., ECCV 2020):

    p_lo      probability of operation o at layer l of a stage (softmax of alpha)
    beta_d    probability of depth d of a stage; depth d keeps layers 1..d
    P(l)      sum of beta_d over d >= l: probability that layer l is kept
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nas.latency.priced_space import Floats, PricedSpace
from nas.spaces import Architecture, Choice, Layer, SearchSpace

K = TypeVar("K")

Weight = Any
"""A float, or a torch scalar."""

Widths = Sequence[Sequence[Mapping[str, int | None]]]
"""Current width of every operation by stage, layer and name; None if it has no width."""

Places = tuple[tuple[int | None, ...], ...]
"""Index of the chosen operation by stage and layer; None if the layer is left out."""


@dataclass(frozen=True)
class Relaxed:
    """Weights of all choices. A choice that is not listed has weight zero and is not computed.

    Attributes:
        ops: Weights of operations, by stage, layer and index of the operation.
        depths: Weights of depths, by stage and depth, from 1.
        skips: Weights of leaving layers out, by stage and layer; a layer that is left out passes
            its input on. This weight and those of the layer's operations sum to 1.
        widths: Channels of elastic operations, by stage, layer and operation. An operation that
            is not listed keeps its present width.
    """

    ops: tuple[tuple[Mapping[int, Weight], ...], ...]
    depths: tuple[Mapping[int, Weight], ...]
    skips: Mapping[tuple[int, int], Weight] = field(default_factory=dict)
    widths: Mapping[tuple[int, int, int], int] = field(default_factory=dict)

    def computed(self) -> Iterator[tuple[int, int, int]]:
        """Stage, layer and index of every operation that is computed."""
        for s, (rows, depths) in enumerate(zip(self.ops, self.depths, strict=True)):
            for i, row in enumerate(rows[: max(depths)]):
                yield from ((s, i, op) for op in row)

    def map(self, change: Callable[[Weight], Weight]) -> Relaxed:
        """The same choices with a function applied to every weight, always in the same order."""

        def changed(row: Mapping[K, Weight]) -> dict[K, Weight]:
            return {key: change(weight) for key, weight in row.items()}

        return Relaxed(
            tuple(tuple(changed(row) for row in stage) for stage in self.ops),
            tuple(changed(row) for row in self.depths),
            changed(self.skips),
            self.widths,
        )


def one_hot(space: SearchSpace, architecture: Architecture) -> Relaxed:
    """An architecture as a relaxation: its choices have weight 1, all others 0."""
    return Relaxed(
        ops=tuple(
            tuple(
                {layer.ops.index(choice.op): 1.0}
                for choice, layer in zip(stage, layers, strict=False)
            )
            for stage, layers in zip(architecture.stages, space.stages, strict=True)
        ),
        depths=tuple({len(stage): 1.0} for stage in architecture.stages),
    )


def path_of(places: Places) -> Relaxed:
    """A path as a relaxation. A layer that is left out passes its input on."""
    return Relaxed(
        ops=tuple(tuple({} if op is None else {op: 1.0} for op in stage) for stage in places),
        depths=tuple({len(stage): 1.0} for stage in places),
        skips={
            (s, i): 1.0 for s, row in enumerate(places) for i, op in enumerate(row) if op is None
        },
    )


def expected_latency_ms(priced: PricedSpace, relaxed: Relaxed, widths: Widths) -> Weight:
    """Expected latency in ms; see ``expected_amount``."""
    return expected_amount(priced.space, priced.base_ms, priced.addend_ms, relaxed, widths)


def expected_amount(
    space: SearchSpace,
    base: Floats,
    addend_of: Callable[[Layer, Choice], Floats],
    relaxed: Relaxed,
    widths: Widths,
) -> Weight:
    """Expected value of a latency or another amount over the architectures of a relaxation.

    A layer l adds P(l) times the sum over o of p_lo times the price of o (TF-NAS, Eq. 6 to 8). The
    code of TF-NAS sums over depths instead: the probability of a depth times the latency of its
    layers. Both are the same number. With L_l the expected latency of layer l,
    sum_d beta_d sum_{l <= d} L_l = sum_l L_l sum_{d >= l} beta_d.

    A network's latency is the largest of a few sums over blocks. The expectation of each sum is
    exact, and the largest of these expectations is returned. That is the exact expected latency if
    the same sum is the largest for all architectures, and otherwise a lower bound of it (Jensen).

    Args:
        space: Search space of the relaxation.
        base: Amount that every network has, ``(sums,)``.
        addend_of: Amount that a choice at a layer adds, ``(sums,)``.
        relaxed: Weights of all choices. The weights of a layer sum to 1, and so do those of a
            stage's depths. A layer that is left out adds nothing.
        widths: Width of every operation.

    Returns:
        A float or a torch scalar, like the weights, in the unit of the addends.
    """
    addends: list[tuple[Weight, Weight, list[float]]] = []
    for s, (rows, depths) in enumerate(zip(relaxed.ops, relaxed.depths, strict=True)):
        for i, row in enumerate(rows):
            kept = sum(weight for depth, weight in depths.items() if depth > i)
            layer = space.stages[s][i]
            for index, weight in row.items():
                op = layer.ops[index]
                addend = addend_of(layer, Choice(op, widths[s][i][op])).tolist()
                addends.append((kept, weight, addend))
    sums = base.tolist()
    for kept, weight, addend in addends:
        share = _value(kept) * _value(weight)
        sums = [total + share * more for total, more in zip(sums, addend, strict=True)]
    piece = max(range(len(sums)), key=sums.__getitem__)
    expected: Weight = float(base[piece])
    for kept, weight, addend in addends:  # only the largest sum needs a gradient
        expected = expected + kept * weight * addend[piece]
    return expected


def _value(weight: Weight) -> float:
    """A weight as a plain number, detached from the graph of gradients."""
    return float(weight.detach() if hasattr(weight, "detach") else weight)
