"""Lists of encodings: the neighbours of one, the nearest new one, all feasible ones of a space."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nas.latency.partial_solutions import ABSENT
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.random_codes import random_code

LISTED = 10_000
"""Largest number of encodings, feasible or not, of a space whose encodings are all listed."""

_DRAWS = 500  # random encodings of a larger space, which take a tenth of a second


def neighbours(encoded: EncodedSpace, code: Code) -> Iterator[Code]:
    """Canonical encodings, feasible or not, with one layer changed, added or removed."""
    for index, layers in enumerate(encoded.stages):
        depth = encoded.depths(code)[index]
        changed = [layers[i] for i in range(depth)]
        if depth + 1 in encoded.space.depths(index):
            changed.append(layers[depth])
        for layer in changed:
            for number in range(len(encoded.choices[layer])):
                if number != code[layer]:
                    yield encoded.canonical((*code[:layer], number, *code[layer + 1 :]))
        if depth - 1 in encoded.space.depths(index):
            last = layers[depth - 1]
            yield encoded.canonical((*code[:last], ABSENT, *code[last + 1 :]))


def nearest_new(
    encoded: EncodedSpace, code: Code, known: Collection[Code], rng: np.random.Generator
) -> Code | None:
    """The nearest feasible encoding that is not known, or None if all are known.

    The search is breadth first over feasible encodings. Several limits together can leave parts of
    the space that no single changes connect. Another part is then found in the list of all
    encodings or, if the space is too large for a list, by random encodings. These may miss a part.
    """
    seen: set[Code] = set()
    found = _reached(encoded, code, known, seen, rng)
    if found is not None:
        return found
    listed = all_codes(encoded, LISTED)
    if listed is not None:
        left = [new for row in listed.tolist() if (new := tuple(row)) not in known]
        return left[int(rng.integers(len(left)))] if left else None
    for _ in range(_DRAWS):
        found = _reached(encoded, random_code(encoded, rng), known, seen, rng)
        if found is not None:
            return found
    return None


def _reached(
    encoded: EncodedSpace,
    code: Code,
    known: Collection[Code],
    seen: set[Code],
    rng: np.random.Generator,
) -> Code | None:
    """The nearest unknown encoding that single changes of known ones reach, or None.

    Args:
        seen: Known encodings that are not visited; those that are visited are added.
    """
    if code not in known:
        return code
    queue = deque([] if code in seen else [code])
    seen.add(code)
    while queue:
        around = list(neighbours(encoded, queue.popleft()))
        for i in rng.permutation(len(around)).tolist():
            near: Code = around[i]
            if near not in seen and encoded.feasible(near):
                if near not in known:
                    return near
                seen.add(near)
                queue.append(near)
    return None


def all_codes(encoded: EncodedSpace, most: int) -> NDArray[np.int64] | None:
    """All feasible canonical encodings, ``(codes, layers)``, or None if the space is too large.

    Args:
        most: Largest number of encodings, feasible or not, that a listed space may have.
    """
    paths = 1
    stages = []
    for index, layers in enumerate(encoded.stages):
        rows: list[Code] = []
        for depth in encoded.space.depths(index):
            paths_here = np.prod([float(len(encoded.choices[i])) for i in layers[:depth]])
            if len(rows) + paths_here > most:
                return None
            rest = (ABSENT,) * (len(layers) - depth)
            numbers = product(*(range(len(encoded.choices[i])) for i in layers[:depth]))
            rows += [(*row, *rest) for row in numbers]
        stages.append(rows)
        paths *= len(rows)
        if paths > most:
            return None
    codes = {encoded.canonical(sum(parts, ())) for parts in product(*stages)}
    listed = np.array(sorted(codes), dtype=np.int64)
    feasible = [encoded.feasible(tuple(row)) for row in listed.tolist()]
    return listed[np.flatnonzero(feasible)]
