"""A relaxed architecture: the space with every choice a probability; its expected latency.

Pure Python: a weight is a float or a torch scalar, and the same arithmetic serves both, so the
expectation is differentiable wherever the weights are.

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
"""Current width of every operation, None where it has none: by stage, by layer, by name."""

Places = tuple[tuple[int | None, ...], ...]
"""Index of the operation of every layer of the space, by stage; None leaves the layer out."""


@dataclass(frozen=True)
class Relaxed:
    """Weights of every choice; a choice that is absent has weight zero and is not computed.

    Attributes:
        ops: By stage, by layer: weight by index of the operation.
        depths: By stage: weight by depth, from 1.
        skips: By stage and layer: weight with which a layer passes its input on, where layers can
            be left out. Weights of a layer's operations and this one sum to 1.
        widths: By stage, layer and operation: channels of an elastic operation. One that is
            absent has its present width.
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
        """The same choices with every weight changed, always in the same order."""

        def changed(row: Mapping[K, Weight]) -> dict[K, Weight]:
            return {key: change(weight) for key, weight in row.items()}

        return Relaxed(
            tuple(tuple(changed(row) for row in stage) for stage in self.ops),
            tuple(changed(row) for row in self.depths),
            changed(self.skips),
            self.widths,
        )


def one_hot(space: SearchSpace, architecture: Architecture) -> Relaxed:
    """An architecture as a relaxation with every weight 1."""
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
    """One path as a relaxation: a layer that is left out passes its input on."""
    return Relaxed(
        ops=tuple(tuple({} if op is None else {op: 1.0} for op in stage) for stage in places),
        depths=tuple({len(stage): 1.0} for stage in places),
        skips={
            (s, i): 1.0 for s, row in enumerate(places) for i, op in enumerate(row) if op is None
        },
    )


def expected_latency_ms(priced: PricedSpace, relaxed: Relaxed, widths: Widths) -> Weight:
    """Expected latency in ms, as ``expected_amount``."""
    return expected_amount(priced.space, priced.base_ms, priced.addend_ms, relaxed, widths)


def expected_amount(
    space: SearchSpace,
    base: Floats,
    addend_of: Callable[[Layer, Choice], Floats],
    relaxed: Relaxed,
    widths: Widths,
) -> Weight:
    """Expected latency, or another amount, over the architectures of a relaxation.

    Depth latency is cumulative: a stage adds, over its layers, P(l) times the sum of p_lo times
    the price of o (TF-NAS, Eq. 6 to 8). The code of TF-NAS sums over depths instead, the
    probability of a depth times the latency of its layers. That is the same number: with L_l the
    expected latency of layer l, sum_d beta_d sum_{l <= d} L_l = sum_l L_l sum_{d >= l} beta_d.

    A network's latency is the largest of a few sums over blocks; the expectation of each sum is
    exact, and the largest of them is returned. Where one sum is the largest for all architectures
    in question that is the exact expectation, else a lower bound of it (Jensen).

    Args:
        space: Of the relaxation.
        base: What every network has, ``(sums,)``.
        addend_of: What a choice at a layer adds, ``(sums,)``.
        relaxed: Weights of all choices; those of a layer and of a stage's depths sum to 1. What
            passes its input on adds nothing.
        widths: Width of every operation.

    Returns:
        A float or a torch scalar as the weights are, in the unit of the addends.
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
    for kept, weight, addend in addends:  # only the largest sum is differentiated
        expected = expected + kept * weight * addend[piece]
    return expected


def _value(weight: Weight) -> float:
    """A weight as a plain number, cut off from the graph of derivatives."""
    return float(weight.detach() if hasattr(weight, "detach") else weight)
