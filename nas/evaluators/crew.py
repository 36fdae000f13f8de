"""Evaluation of several architectures at once by a crew of workers (``nas.crew``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from latbench.errors import InvalidValueError
from nas.crew.base import Crew, CrewSettings, make_crew
from nas.evaluators.base import Evaluator
from nas.spaces import Architecture


def require_several(settings: CrewSettings, at_once: int) -> None:
    """Refuse workers that have nothing to do.

    Raises:
        InvalidValueError: There are several workers, and one architecture is proposed at a time.
    """
    if at_once == 1 and not settings.is_alone:
        asked = f"{settings.count} workers" if settings.count else "the workers"
        raise InvalidValueError(
            f"{asked} share the architectures that are proposed at once, and the recipe proposes "
            f"one: add --set at_once={2 * (settings.count or 4)}, or leave out --workers and --ray"
        )


@contextmanager
def crewed(
    evaluator: Evaluator, settings: CrewSettings, *, at_once: int, gpu: bool = False
) -> Iterator[Evaluator]:
    """An evaluator that computes with some workers, or in this process.

    Args:
        evaluator: The evaluator to copy to each worker.
        settings: The workers.
        at_once: Number of architectures that are asked for at once. If it is 1, nothing can be
            divided, and this process computes with all its threads.
        gpu: Whether the evaluator computes on a GPU.

    Raises:
        MissingExtraError: Ray is not installed.
        RuntimeFailure: The cluster does not answer, or workers died without a score between them.
    """
    if at_once == 1:
        yield evaluator
        return
    with make_crew(evaluator.score, settings, at_once=at_once, gpu=gpu) as crew:
        yield Crewed(crew)


class Crewed(Evaluator):
    """An evaluator whose scores come from a crew."""

    def __init__(self, crew: Crew[Architecture, float]) -> None:
        super().__init__()
        self._crew = crew

    def _score(self, architecture: Architecture) -> float:
        return next(self._crew.map([architecture]))

    def scores(self, architectures: Sequence[Architecture]) -> Iterator[float]:
        """The scores of architectures, in their order, as soon as those before are there."""
        for score in self._crew.map(architectures):
            self.evaluations += 1
            yield score
