"""What all black-box searchers share: ask for an architecture, tell its score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from latbench.progress import Progress, silent
from nas.optimize.blackbox.variation import DEFAULT, Variation
from nas.optimize.encoding import Code, EncodedSpace


class BlackBox(ABC):
    """Proposes codes of feasible architectures, each once, and learns from their scores.

    What is asked depends on the seed and on what was told, and on nothing else: a search that is
    repeated with the same scores takes the same path.

    Args:
        encoded: The space under its constraint.
        seed: Seed of all draws.
        variation: How children are made, and how many random architectures come first.

    Attributes:
        whole_front: Whether one search serves all budgets up to its own.
        scores: Of every code that was told.
    """

    whole_front: ClassVar[bool] = False

    def __init__(self, encoded: EncodedSpace, *, seed: int, variation: Variation = DEFAULT) -> None:
        self.encoded = encoded
        self.variation = variation
        self.rng = np.random.default_rng(seed)
        self.scores: dict[Code, float] = {}

    def ask(self) -> Code | None:
        """A feasible code whose score is not known, or None if there is none left."""
        return self.encoded.nearest_new(self._propose(), self.scores, self.rng)

    def tell(self, code: Code, score: float) -> None:
        """Take note of a score; more is better."""
        self.scores[code] = score

    @property
    def best(self) -> tuple[Code, float]:
        """The code of the best score, the first of equals."""
        code = max(self.scores, key=self.scores.__getitem__)
        return code, self.scores[code]

    @abstractmethod
    def _propose(self) -> Code:
        """A feasible canonical code; if its score is known, the nearest unknown is asked for."""


def run(
    black_box: BlackBox,
    score: Callable[[Code], float],
    evaluations: int,
    *,
    shown: Callable[[float], str] = "score {:.4f}".format,
    progress: Progress = silent,
) -> None:
    """Ask and tell so many times, or until the space is known.

    Args:
        black_box: What asks.
        score: What answers.
        evaluations: How many times.
        shown: A score in words.
        progress: Told the fraction done, and the best score so far.
    """
    for count in range(1, evaluations + 1):
        code = black_box.ask()
        if code is None:
            return
        black_box.tell(code, score(code))
        progress(
            count / evaluations,
            f"architecture {count} of {evaluations}, best {shown(black_box.best[1])}",
        )
