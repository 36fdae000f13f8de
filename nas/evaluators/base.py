"""The common interface of all evaluators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from nas.spaces import Architecture


class Evaluator(ABC):
    """Base class: gives architectures scores.

    Attributes:
        evaluations: Number of scores requested; the cost of a search is counted by it.
    """

    def __init__(self) -> None:
        self.evaluations = 0

    def score(self, architecture: Architecture) -> float:
        """The score of an architecture; accuracy, a fraction, for classes.

        Raises:
            LatbenchError: This evaluator cannot score the architecture.
        """
        score = self._score(architecture)
        self.evaluations += 1
        return score

    def scores(self, architectures: Sequence[Architecture]) -> Iterator[float]:
        """The scores of architectures, in their order."""
        return map(self.score, architectures)

    @abstractmethod
    def _score(self, architecture: Architecture) -> float:
        """Compute the score; the same architecture must get the same score again."""
