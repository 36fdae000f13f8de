"""Networks that a generator is shown: for each of some places in the range, an accurate one.

At every place some random networks are judged first. The scores of all of them give a model of
accuracy. It looks at many more random networks near the place, and the ones are judged for which it
expects the highest scores. A network takes seconds to judge and the model microseconds, so it can
look at thousands.

The model is ridge regression on what each layer is made of (``DecisionPlane.features``). A score
below all that the place's random networks have counts as the least of these: how badly a network
does that is much smaller says nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from latbench.progress import Progress, silent
from nas.evaluators.base import Evaluator
from nas.generator import DecisionPlane

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DRAWS = 1024  # random networks for each that is judged
_RIDGES = np.logspace(-1, 5, 30)  # leave-one-out chooses among them


def find_priors(
    plane: DecisionPlane,
    places: Sequence[float],
    place_of: Callable[[Ints], float],
    judge: Evaluator,
    *,
    candidates: int,
    rng: np.random.Generator,
    progress: Progress = silent,
) -> list[Ints]:
    """The most accurate of the networks that are judged near each place.

    Args:
        plane: Decisions of the space.
        places: Where in the range.
        place_of: Where a network of given outcomes lies in it.
        judge: Scores networks.
        candidates: Networks that are judged for a place; half of them random.
        rng: Draws networks.
        progress: Gets the fraction done, and what is going on.

    Returns:
        Choices for every place, ``(L, G)``.
    """
    drawn = [plane.random(rng) for _ in range(_DRAWS * candidates)]
    outcomes = np.array([plane.outcomes_of(choices) for choices in drawn])  # (draws, L)
    at = np.array([place_of(row) for row in outcomes])
    near = [np.argsort(np.abs(at - place), kind="stable") for place in places]
    scores: dict[int, float] = {}
    total = len(places) * candidates

    def judged(numbers: Sequence[int]) -> list[int]:
        for i in numbers:
            if i not in scores:
                scores[i] = judge.score(plane.chosen(drawn[i]))
            progress(len(scores) / total, f"priors, network {len(scores)} of {total}")
        return list(numbers)

    half = -(-candidates // 2)
    first = [judged(order[:half].tolist()) for order in near]
    found = []
    for order, random in zip(near, first, strict=True):
        known = list(scores)
        least = min(scores[i] for i in random)
        targets = np.array([max(scores[i], least) for i in known])
        others = order[: len(drawn) // len(places)]
        others = others[~np.isin(others, known)]
        expected = _expected(
            plane.features(outcomes[known]), targets, plane.features(outcomes[others])
        )
        promising = others[np.argsort(-expected, kind="stable")][: candidates - half]
        tried = random + judged(promising.tolist())
        found.append(drawn[max(tried, key=scores.__getitem__)])
    return found


def _expected(known: Floats, scores: Floats, others: Floats) -> Floats:
    """Expected scores of others from those of known networks, by their features.

    Args:
        known: ``(N, features)``.
        scores: ``(N,)``.
        others: ``(M, features)``.

    Returns:
        ``(M,)``.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    if len(known) == 1:  # nothing to compare
        return np.zeros(len(others))
    scaler = StandardScaler().fit(known)
    model = RidgeCV(alphas=_RIDGES).fit(scaler.transform(known), scores)
    expected: Floats = model.predict(scaler.transform(others))
    return expected
