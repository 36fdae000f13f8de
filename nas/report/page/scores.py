"""Scores of a search as readers of a page know them: an accuracy in per cent, or a loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from latbench.report.page.wording import percent


@dataclass(frozen=True)
class ScoreScale:
    """What a score with the supernet's weights is.

    Attributes:
        name: Its name, such as ``accuracy``.
        is_share: Whether it is a fraction, which is shown in per cent.
        sign: -1 if the score is minus the value of this name, because higher scores are better.
    """

    name: str
    is_share: bool
    sign: int = 1

    @classmethod
    def of(cls, fitness: str | None, scores: Iterable[float]) -> ScoreScale:
        """The scale of these scores.

        Args:
            fitness: Name of the task's fitness; None for a run of an older version, whose scores
                are taken for fractions if they can be.
            scores: All scores that are shown together.
        """
        known = {"accuracy": cls("accuracy", True), "loss": cls("loss", False, -1)}
        if fitness is None:
            return cls("score", all(0 <= score <= 1 for score in scores))
        return known.get(fitness) or cls(fitness, False)

    def shown(self, score: float, digits: int = 1) -> str:
        """A score as text, with so many digits if it is in per cent."""
        return percent(score, digits) if self.is_share else f"{self.sign * score:.3f}"
