"""Mutation and crossover of encodings. Children are repaired, so they are always feasible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.latency.partial_solutions import ABSENT
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.random_codes import changed_choice, random_choice, repaired


@dataclass(frozen=True)
class Variation:
    """Settings of mutation and crossover. The defaults suit hundreds of evaluations.

    Attributes:
        initial: Number of random architectures at the start; 50 in SPOS and OSNASLib.
        parents: Number of best architectures that become parents; 10 in both.
        crossovers: Share of the children that have two parents; 0.5 in both.
        mutation_rate: Probability that a mutation changes a decision, independently for each
            decision; 0.1 in both. The value 0 means: change one decision, then one more with
            probability one half, and so on.
        mutate_crossed: Whether children of two parents are mutated as well, as in OSNASLib. With a
            mutation rate above 0 this may change nothing.
        single_point: Whether a crossover takes all layers up to a random one from one parent and
            the rest from the other, as in OSNASLib. Otherwise, and where there is one layer, each
            layer comes from a random parent, as in SPOS.
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
    """Change one or more decisions.

    A decision is the depth of a stage, if it may change, or the choice of a layer that is present.
    """
    if variation.mutation_rate:
        changed = _at_rate(encoded, code, variation.mutation_rate, rng)
        if changed != code:
            return repaired(encoded, changed, rng)
    changed = code
    while True:
        decisions = _decisions(encoded, changed)
        changed = _change(encoded, changed, decisions[int(rng.integers(len(decisions)))], rng)
        if rng.random() < 0.5:
            return repaired(encoded, changed, rng)


def crossover(
    encoded: EncodedSpace,
    one: Code,
    other: Code,
    rng: np.random.Generator,
    *,
    variation: Variation = DEFAULT,
) -> Code:
    """Take every depth and layer from a random parent; a layer only from one that has it."""
    crossed = _crossed(encoded, one, other, rng, single_point=variation.single_point)
    if variation.mutate_crossed and variation.mutation_rate:
        crossed = _at_rate(encoded, crossed, variation.mutation_rate, rng)
    elif variation.mutate_crossed:
        return mutate(encoded, repaired(encoded, crossed, rng), rng, variation=variation)
    return repaired(encoded, crossed, rng)


def _crossed(
    encoded: EncodedSpace, one: Code, other: Code, rng: np.random.Generator, *, single_point: bool
) -> Code:
    if single_point and len(one) > 1:
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
    """Take the layers before a point from one parent, the rest from the other.

    The stage around the point has the depth of the second parent. Where the first parent has no
    layer there, the layer comes from the second one.
    """
    mixed = [*one[:point], *other[point:]]
    for layers in encoded.stages:
        if layers.start < point < layers.stop:
            for layer in range(layers.start, point):
                if one[layer] == ABSENT or other[layer] == ABSENT:
                    mixed[layer] = other[layer]
    return tuple(mixed)


Decision = tuple[str, int]
"""A decision that can change: ``("layer", index)`` or ``("depth", stage)``."""


def _decisions(encoded: EncodedSpace, code: Code) -> list[Decision]:
    present = [("layer", layer) for layer, number in enumerate(code) if number != ABSENT]
    stages = range(len(encoded.stages))
    return present + [("depth", s) for s in stages if len(encoded.space.depths(s)) > 1]


def _at_rate(encoded: EncodedSpace, code: Code, rate: float, rng: np.random.Generator) -> Code:
    """Change each decision with a probability."""
    picked = [decision for decision in _decisions(encoded, code) if rng.random() < rate]
    changed = code
    for kind, number in picked:
        if kind == "depth" or changed[number] != ABSENT:  # a new depth may have removed the layer
            changed = _change(encoded, changed, (kind, number), rng)
    return changed


def _change(
    encoded: EncodedSpace, code: Code, decision: Decision, rng: np.random.Generator
) -> Code:
    changed = list(code)
    kind, number = decision
    if kind == "layer":
        changed[number] = changed_choice(encoded, number, changed[number], rng)
        return tuple(changed)
    depths, layers = encoded.space.depths(number), encoded.stages[number]
    depth = int(rng.integers(depths.start, depths.stop))
    for position, layer in enumerate(layers):
        if position >= depth:
            changed[layer] = ABSENT
        elif changed[layer] == ABSENT:
            changed[layer] = random_choice(encoded, layer, rng)
    return tuple(changed)
