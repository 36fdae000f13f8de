"""Mutation and crossover of codes; children are repaired, so they are always feasible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.latency.partial_solutions import ABSENT
from nas.optimize.encoding import Code, EncodedSpace


@dataclass(frozen=True)
class Variation:
    """How children are made. The defaults suit hundreds of evaluations.

    Attributes:
        initial: Random architectures before anything is concluded from scores; 50 in SPOS and
            OSNASLib.
        parents: The best architectures, which children are made of; 10 in both.
        crossovers: Share of the children that have two parents; 0.5 in both.
        mutation_rate: Probability that a mutation changes a decision, for each decision by
            itself; 0.1 in both. 0 changes one, and with probability one half each one more.
        mutate_crossed: Whether children of two parents are mutated as well, as in OSNASLib; at a
            mutation rate that may change none of their decisions.
        single_point: Whether a crossover takes all layers up to a random one from one parent and
            the others from the other, as in OSNASLib; else each layer comes from either, as in
            SPOS.
    """

    initial: int = 10
    parents: int = 10
    crossovers: float = 0.5
    mutation_rate: float = 0.0
    mutate_crossed: bool = False
    single_point: bool = False


DEFAULT = Variation()


def mutate(
    encoded: EncodedSpace, code: Code, rng: np.random.Generator, *, variation: Variation = DEFAULT
) -> Code:
    """Change some decisions, at least one.

    Every stage whose depth may change counts as one decision, and every layer that is there.
    """
    if variation.mutation_rate:
        changed = _at_rate(encoded, code, variation.mutation_rate, rng)
        if changed != code:
            return encoded.repair(changed, rng)
    changed = code
    while True:
        decisions = _decisions(encoded, changed)
        changed = _change(encoded, changed, decisions[int(rng.integers(len(decisions)))], rng)
        if rng.random() < 0.5:
            return encoded.repair(changed, rng)


def crossover(
    encoded: EncodedSpace,
    one: Code,
    other: Code,
    rng: np.random.Generator,
    *,
    variation: Variation = DEFAULT,
) -> Code:
    """Every depth and every layer from either parent, or from the one that has the layer."""
    crossed = _crossed(encoded, one, other, rng, single_point=variation.single_point)
    if variation.mutate_crossed and variation.mutation_rate:
        crossed = _at_rate(encoded, crossed, variation.mutation_rate, rng)
    elif variation.mutate_crossed:
        return mutate(encoded, encoded.repair(crossed, rng), rng, variation=variation)
    return encoded.repair(crossed, rng)


def _crossed(
    encoded: EncodedSpace, one: Code, other: Code, rng: np.random.Generator, *, single_point: bool
) -> Code:
    if single_point:
        return _crossed_at(encoded, one, other, int(rng.integers(1, len(one))))
    mixed = list(one)
    for layers, *depths in zip(
        encoded.stages, encoded.depths(one), encoded.depths(other), strict=True
    ):
        depth = depths[int(rng.integers(2))]
        for position, layer in enumerate(layers):
            mine, theirs = one[layer], other[layer]
            taken = mine if theirs == ABSENT or (mine != ABSENT and rng.random() < 0.5) else theirs
            mixed[layer] = taken if position < depth else ABSENT
    return tuple(mixed)


def _crossed_at(encoded: EncodedSpace, one: Code, other: Code, point: int) -> Code:
    """The layers before a point from one parent, the others from the other.

    The stage around the point has the second parent's depth, and so the second parent's layers
    where the first has none.
    """
    mixed = [*one[:point], *other[point:]]
    for layers in encoded.stages:
        if layers.start < point < layers.stop:
            for layer in range(layers.start, point):
                if one[layer] == ABSENT or other[layer] == ABSENT:
                    mixed[layer] = other[layer]
    return tuple(mixed)


Decision = tuple[str, int]
"""What can be changed: ``("layer", number)`` or ``("depth", stage)``."""


def _decisions(encoded: EncodedSpace, code: Code) -> list[Decision]:
    present = [("layer", layer) for layer, number in enumerate(code) if number != ABSENT]
    stages = range(len(encoded.stages))
    return present + [("depth", s) for s in stages if len(encoded.space.depths(s)) > 1]


def _at_rate(encoded: EncodedSpace, code: Code, rate: float, rng: np.random.Generator) -> Code:
    """Each decision changed with a probability."""
    picked = [decision for decision in _decisions(encoded, code) if rng.random() < rate]
    changed = code
    for kind, number in picked:
        if kind == "depth" or changed[number] != ABSENT:  # a new depth may have taken the layer
            changed = _change(encoded, changed, (kind, number), rng)
    return changed


def _change(
    encoded: EncodedSpace, code: Code, decision: Decision, rng: np.random.Generator
) -> Code:
    changed = list(code)
    kind, number = decision
    if kind == "layer":
        changed[number] = encoded.change(number, changed[number], rng)
        return tuple(changed)
    depths, layers = encoded.space.depths(number), encoded.stages[number]
    depth = int(rng.integers(depths.start, depths.stop))
    for position, layer in enumerate(layers):
        if position >= depth:
            changed[layer] = ABSENT
        elif changed[layer] == ABSENT:
            changed[layer] = encoded.draw(layer, rng)
    return tuple(changed)
