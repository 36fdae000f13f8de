"""Base of all black-box searchers: ask for an architecture, then report its score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np

from latbench.progress import Progress, silent
from nas.optimize.blackbox.variation import DEFAULT, Variation
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.enumeration import nearest_new


class BlackBox(ABC):
    """Proposes encodings of feasible architectures, each once, and learns from their scores.

    Proposals depend only on the seed and on the scores so far. A search that is repeated with the
    same scores makes the same proposals.

    Args:
        encoded: The encoded space with its constraint.
        seed: Seed of all draws.
        variation: Settings of mutation and crossover, and the number of random architectures that
            come first.

    Attributes:
        whole_front: Whether one search finds architectures for all budgets up to its own.
        scores: Scores of all evaluated encodings.
    """

    whole_front: ClassVar[bool] = False

    def __init__(self, encoded: EncodedSpace, *, seed: int, variation: Variation = DEFAULT) -> None:
        self.encoded = encoded
        self.variation = variation
        self.rng = np.random.default_rng(seed)
        self.scores: dict[Code, float] = {}

    def ask(self) -> Code | None:
        """A feasible encoding without a score, or None if none is left."""
        return nearest_new(self.encoded, self._propose(), self.scores, self.rng)

    def ask_several(self, count: int) -> list[Code]:
        """Distinct feasible encodings without scores, at most so many; none if none is left.

        An encoding that was proposed counts as one of the lowest known score until its own is told
        (the constant liar of Ginsbourger et al. 2010), so that the next one is different.
        """
        lowest = min(self.scores.values(), default=0.0)
        asked: list[Code] = []
        try:
            while len(asked) < count:
                code = self.ask()
                if code is None:
                    break
                asked.append(code)
                self.scores[code] = lowest
        finally:
            for code in asked:
                del self.scores[code]
        return asked

    def tell(self, code: Code, score: float) -> None:
        """Record a score; a greater score is better."""
        self.scores[code] = score

    @property
    def best(self) -> tuple[Code, float]:
        """The encoding of the best score, and the score; the first one if several are equal."""
        code = max(self.scores, key=self.scores.__getitem__)
        return code, self.scores[code]

    @abstractmethod
    def _propose(self) -> Code:
        """A feasible canonical encoding. If it has a score, the nearest one without is used."""


def run(
    black_box: BlackBox,
    scores: Callable[[Sequence[Code]], Iterable[float]],
    evaluations: int,
    *,
    at_once: int = 1,
    shown: Callable[[float], str] = "score {:.4f}".format,
    progress: Progress = silent,
) -> None:
    """Evaluate so many architectures, or all of the space if it has fewer.

    Args:
        black_box: The searcher that proposes encodings.
        scores: Gives the scores of encodings, in their order.
        evaluations: Number of architectures to evaluate.
        at_once: Number of architectures that are proposed before their scores are known.
        shown: Formats a score.
        progress: Gets the fraction that is done, and the best score so far.
    """
    count = 0
    while count < evaluations:
        codes = black_box.ask_several(min(at_once, evaluations - count))
        if not codes:
            return
        for code, score in zip(codes, scores(codes), strict=True):
            black_box.tell(code, score)
            count += 1
            progress(
                count / evaluations,
                f"architecture {count} of {evaluations}, best {shown(black_box.best[1])}",
            )


def one_by_one(score: Callable[[Code], float]) -> Callable[[Sequence[Code]], Iterable[float]]:
    """Scores of several encodings, by a function of one."""
    return lambda codes: map(score, codes)
