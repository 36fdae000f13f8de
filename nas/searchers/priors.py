"""Networks that a generator is shown: for each of some places in the range, an accurate one.

At every place some random networks are judged first. What all of them scored gives a model of
accuracy, and of many more random networks near the place those are judged of which it expects most.
A network takes seconds to judge and the model microseconds, so thousands are looked through.

The model is ridge regression on what each layer is made of: sub-blocks of every kernel, their
number e, its square and logarithm, and whether e is 1, where a block has no expansion. A score
below all that the place's random networks have counts as the least of these: how badly a network
does that is much smaller says nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nas.evaluators.base import Evaluator
from nas.generator.counts import counts_of
from nas.spaces import SearchSpace
from nas.spaces.sgnas import COUNT_VECTORS, KERNELS, architecture_of, random_network
from nas.supernet.unified import path_of
from nas.training.epochs import Progress

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DRAWS = 1024  # random networks for each that is judged
_RIDGES = np.logspace(-1, 5, 30)  # of which leave-one-out chooses


def find_priors(
    space: SearchSpace,
    places: Sequence[float],
    place_of: Callable[[Ints], float],
    judge: Evaluator,
    *,
    candidates: int,
    rng: np.random.Generator,
    progress: Progress = lambda fraction, words: None,
) -> list[list[list[int]]]:
    """The most accurate of the networks that are judged near each place.

    Args:
        space: Of unified blocks.
        places: Where in the range.
        place_of: Where a network of given count vectors lies in it.
        judge: Scores networks.
        candidates: Networks that are judged for a place; half of them random.
        rng: Draws networks.
        progress: Is told the fraction done.

    Returns:
        A path for every place, ``(layers, 6)``.
    """
    paths = [path_of(random_network(space, rng)) for _ in range(_DRAWS * candidates)]
    counts = np.array([counts_of(np.array(path)) for path in paths])  # (draws, L)
    at = np.array([place_of(row) for row in counts])
    near = [np.argsort(np.abs(at - place), kind="stable") for place in places]
    scores: dict[int, float] = {}
    total = len(places) * candidates

    def judged(numbers: Sequence[int]) -> list[int]:
        for i in numbers:
            if i not in scores:
                scores[i] = judge.score(architecture_of(space, paths[i]))
            progress(len(scores) / total, f"priors, network {len(scores)} of {total}")
        return list(numbers)

    half = -(-candidates // 2)
    first = [judged(order[:half].tolist()) for order in near]
    found = []
    for order, random in zip(near, first, strict=True):
        known = list(scores)
        least = min(scores[i] for i in random)
        targets = np.array([max(scores[i], least) for i in known])
        others = order[: len(paths) // len(places)]
        others = others[~np.isin(others, known)]
        expected = _expected(counts[known], targets, counts[others])
        promising = others[np.argsort(-expected, kind="stable")][: candidates - half]
        tried = random + judged(promising.tolist())
        found.append(paths[max(tried, key=scores.__getitem__)])
    return found


def _expected(known: Ints, scores: Floats, others: Ints) -> Floats:
    """Scores that are expected of others ``(M, L)`` from those of known ones ``(N, L)``."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    if len(known) == 1:  # nothing to compare
        return np.zeros(len(others))
    scaler = StandardScaler().fit(_features(known))
    model = RidgeCV(alphas=_RIDGES).fit(scaler.transform(_features(known)), scores)
    expected: Floats = model.predict(scaler.transform(_features(others)))
    return expected


def _features(counts: Ints) -> Floats:
    """What layers are made of: count vectors ``(N, L)`` to ``(N, features)``."""
    return _layer_features()[counts].reshape(len(counts), -1)


@cache
def _layer_features() -> Floats:
    """Of each of the 83 blocks."""
    rows = []
    for vector in COUNT_VECTORS:
        e = len(vector)
        of_kernels = [vector.count(kernel) for kernel in KERNELS]
        rows.append([*of_kernels, e, e**2, np.log(e), e == 1])
    return np.array(rows, dtype=np.float64)
