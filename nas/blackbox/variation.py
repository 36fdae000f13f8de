"""Mutation and crossover of codes; children are repaired, so they are always feasible."""

from __future__ import annotations

import numpy as np

from nas.beginnings import ABSENT
from nas.coding import Code, CodedSpace


def mutate(coded: CodedSpace, code: Code, rng: np.random.Generator) -> Code:
    """Change one decision, and with probability one half each one more.

    Every stage whose depth may change counts as one decision, and every layer that is there.
    """
    changed = code
    while True:
        changed = _change(coded, changed, rng)
        if rng.random() < 0.5:
            return coded.repair(changed, rng)


def crossover(coded: CodedSpace, one: Code, other: Code, rng: np.random.Generator) -> Code:
    """Every depth and every layer from either parent, or from the one that has the layer."""
    mixed = list(one)
    for layers, *depths in zip(coded.stages, coded.depths(one), coded.depths(other), strict=True):
        depth = depths[int(rng.integers(2))]
        for position, layer in enumerate(layers):
            mine, theirs = one[layer], other[layer]
            taken = mine if theirs == ABSENT or (mine != ABSENT and rng.random() < 0.5) else theirs
            mixed[layer] = taken if position < depth else ABSENT
    return coded.repair(tuple(mixed), rng)


def _change(coded: CodedSpace, code: Code, rng: np.random.Generator) -> Code:
    present = [layer for layer, number in enumerate(code) if number != ABSENT]
    elastic = [s for s in range(len(coded.stages)) if len(coded.space.depths(s)) > 1]
    decision = int(rng.integers(len(present) + len(elastic)))
    changed = list(code)
    if decision < len(present):
        layer = present[decision]
        changed[layer] = coded.draw(layer, rng)
        return tuple(changed)
    stage = elastic[decision - len(present)]
    depths, layers = coded.space.depths(stage), coded.stages[stage]
    depth = int(rng.integers(depths.start, depths.stop))
    for position, layer in enumerate(layers):
        if position >= depth:
            changed[layer] = ABSENT
        elif changed[layer] == ABSENT:
            changed[layer] = coded.draw(layer, rng)
    return tuple(changed)
