"""One interface to all that can say how good an architecture is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from nas.spaces import Architecture


class Evaluator(ABC):
    """Scores architectures.

    Attributes:
        evaluations: How many scores were asked for, which is what searches are charged with.
    """

    def __init__(self) -> None:
        self.evaluations = 0

    def score(self, architecture: Architecture) -> float:
        """The accuracy of an architecture, a fraction.

        Raises:
            LatbenchError: The architecture is none that this evaluator can score.
        """
        score = self._score(architecture)
        self.evaluations += 1
        return score

    @abstractmethod
    def _score(self, architecture: Architecture) -> float:
        """The score itself; the same architecture has the same score again."""
