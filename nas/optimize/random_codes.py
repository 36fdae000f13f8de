"""Random encodings, random changes of them, and the repair of those that exceed a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.latency.partial_solutions import ABSENT
from nas.optimize.encoding import Code, EncodedSpace


def random_code(encoded: EncodedSpace, rng: np.random.Generator) -> Code:
    """Uniform depths and operations, then uniform widths; repaired if not feasible."""
    code = [ABSENT] * len(encoded.choices)
    for index, layers in enumerate(encoded.stages):
        depths = encoded.space.depths(index)
        for layer in layers[: int(rng.integers(depths.start, depths.stop))]:
            code[layer] = random_choice(encoded, layer, rng)
    return repaired(encoded, tuple(code), rng)


def random_choice(encoded: EncodedSpace, layer: int, rng: np.random.Generator) -> int:
    """Index of a random choice of a layer: a uniform operation, then a uniform width."""
    groups = encoded.groups[layer]
    group = groups[int(rng.integers(len(groups)))]
    return group[int(rng.integers(len(group)))]


def changed_choice(encoded: EncodedSpace, layer: int, number: int, rng: np.random.Generator) -> int:
    """Index of another choice for a layer, for a mutation.

    A mix of kernels has one kernel added, dropped or resized, or all kernels drawn anew, with
    equal probability. Any other choice is drawn anew.
    """
    near = encoded.near_mixes[layer].get(number)
    if near and rng.random() < 0.5:
        return near[int(rng.integers(len(near)))]
    return random_choice(encoded, layer, rng)


def repaired(encoded: EncodedSpace, code: Code, rng: np.random.Generator) -> Code:
    """A feasible canonical encoding near this one.

    Layers are changed in random order until the encoding is feasible. Each gets a random choice
    that makes it feasible or, if there is none, the choice of the lightest encoding. A stage
    may get shorter. In the worst case the result is the lightest encoding.
    """
    if encoded.feasible(code):
        return encoded.canonical(code)
    mended = list(code)
    for layer in rng.permutation(len(code)).tolist():
        if mended[layer] == encoded.lightest[layer] or mended[layer] == ABSENT:
            continue
        if encoded.lightest[layer] == ABSENT:  # end the stage before this layer
            stage = next(stage for stage in encoded.stages if layer in stage)
            mended[layer : stage.stop] = [ABSENT] * (stage.stop - layer)
        else:
            mended[layer] = _fitting(encoded, mended, layer, rng)
        if encoded.feasible(tuple(mended)):
            return encoded.canonical(tuple(mended))
    return encoded.canonical(encoded.lightest)


def _fitting(
    encoded: EncodedSpace, code: Sequence[int], layer: int, rng: np.random.Generator
) -> int:
    """A random choice of a layer that makes the encoding feasible, or the lightest one's."""
    without = [*code[:layer], ABSENT, *code[layer + 1 :]]
    room = encoded.budgets - np.array(encoded.amounts(tuple(without)))
    fits = np.flatnonzero((encoded.addends[layer][:-1] <= room).all(axis=1))
    return int(rng.choice(fits)) if len(fits) else encoded.lightest[layer]
