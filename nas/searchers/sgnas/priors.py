"""Priors of a generator: for each position in the range, an accurate network.

At every position some random networks are evaluated first. Their scores give a model of accuracy.
The model then rates many more random networks near the position, and those with the highest
expected scores are evaluated. Evaluating a network takes seconds and the model takes microseconds,
so it can rate thousands. All of this can be done on few images; then the best quarter of the
candidates of each position is evaluated on more (successive halving, Jamieson and Talwalkar 2016,
with one step).

The model is ridge regression on features of the layers (``DecisionPlane.features``). A score below
all scores of the random networks of the position counts as the lowest of these: a very bad score of
a much smaller network is no useful information here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from latbench.progress import Progress, silent
from nas.evaluators.base import Evaluator
from nas.generator import DecisionPlane

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FINALISTS = 4  # candidates of a position for each one that is evaluated on all images
_DRAWS = 1024  # random networks for each one that is evaluated
_RIDGES = np.logspace(-1, 5, 30)  # candidates; leave-one-out error chooses one


def rank_candidates(
    plane: DecisionPlane,
    places: Sequence[float],
    place_of: Callable[[Ints], float],
    evaluator: Evaluator,
    *,
    candidates: int,
    rng: np.random.Generator,
    progress: Progress = silent,
) -> list[list[Ints]]:
    """Networks near each position, the most accurate first.

    Args:
        plane: Decision plane of the space.
        places: Positions in the range.
        place_of: Gives the position of a network from its outcomes.
        evaluator: Evaluator that scores networks.
        candidates: Number of networks to evaluate for a position; half of them are random.
        rng: Draws networks.
        progress: Gets the fraction that is done, and a description.

    Returns:
        By position, choices ``(L, G)`` of the candidates.
    """
    drawn = [plane.random(rng) for _ in range(_DRAWS * candidates)]
    outcomes = np.array([plane.outcomes_of(choices) for choices in drawn])  # (draws, L)
    at = np.array([place_of(row) for row in outcomes])
    _, first_draws = np.unique(outcomes, axis=0, return_index=True)
    is_first = np.isin(np.arange(len(drawn)), first_draws)  # equal networks are candidates once
    nearest = (np.argsort(np.abs(at - place), kind="stable") for place in places)
    near = [order[: len(drawn) // len(places)] for order in nearest]
    near = [order[is_first[order]] for order in near]
    scores: dict[int, float] = {}
    total = len(places) * candidates

    def evaluate(numbers: Iterable[int]) -> None:
        new = [i for i in dict.fromkeys(numbers) if i not in scores]
        found = evaluator.scores([plane.chosen(drawn[i]) for i in new])
        for i, score in zip(new, found, strict=True):
            scores[i] = score
            progress(len(scores) / total, f"candidate {len(scores)} of {total}")

    half = -(-candidates // 2)
    first = [order[:half].tolist() for order in near]
    evaluate(chain(*first))
    found = []
    for order, random in zip(near, first, strict=True):
        known = list(scores)
        least = min(scores[i] for i in random)
        targets = np.array([max(scores[i], least) for i in known])
        others = order[~np.isin(order, known)]
        expected = _expected(
            plane.features(outcomes[known]), targets, plane.features(outcomes[others])
        )
        promising = others[np.argsort(-expected, kind="stable")][: candidates - half].tolist()
        evaluate(promising)
        ranked = sorted(random + promising, key=scores.__getitem__, reverse=True)  # stable
        found.append([drawn[i] for i in ranked])
    return found


def best_finalists(
    plane: DecisionPlane,
    ranked: Sequence[Sequence[Ints]],
    evaluator: Evaluator,
    *,
    progress: Progress = silent,
) -> list[Ints]:
    """The most accurate network of each position, of the best quarter of its candidates.

    Args:
        plane: Decision plane of the space.
        ranked: The candidates of each position, the best first.
        evaluator: Evaluator that scores the finalists.
        progress: Gets the fraction that is done, and a description.

    Returns:
        Choices for every position, ``(L, G)``.
    """
    finalists = [[*candidates[: -(-len(candidates) // FINALISTS)]] for candidates in ranked]
    asked = [*chain(*finalists)]
    scores = []
    for score in evaluator.scores([plane.chosen(choices) for choices in asked]):
        scores.append(score)
        progress(len(scores) / len(asked), f"finalist {len(scores)} of {len(asked)}")
    left = iter(scores)
    by_position = [[next(left) for _ in candidates] for candidates in finalists]
    return [
        candidates[int(np.argmax(found))]
        for candidates, found in zip(finalists, by_position, strict=True)
    ]


def _expected(known: Floats, scores: Floats, others: Floats) -> Floats:
    """Expected scores of networks, from the features and scores of known networks.

    Args:
        known: Features of known networks, ``(N, features)``.
        scores: Scores of known networks, ``(N,)``.
        others: Features of other networks, ``(M, features)``.

    Returns:
        Expected scores, ``(M,)``.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    if len(known) == 1 or not len(others):  # one network is not enough for a model
        return np.zeros(len(others))
    scaler = StandardScaler().fit(known)
    model = RidgeCV(alphas=_RIDGES).fit(scaler.transform(known), scores)
    expected: Floats = model.predict(scaler.transform(others))
    return expected
