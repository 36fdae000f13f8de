"""A journal of scores: no score is lost, and no architecture is evaluated twice.

A restarted searcher with the same seed asks for the same architectures in the same order, and the
journal answers. So an interrupted search resumes bit-exactly, and the searcher need not save any
state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from latbench.json_lines import read_json_lines
from nas.evaluators.base import Evaluator
from nas.spaces import Architecture


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    architecture: Architecture
    score: float


class Journaled(Evaluator):
    """An evaluator that stores its scores in a file, one JSON line per architecture.

    Args:
        evaluator: Evaluator for architectures that are not in the journal.
        path: Path of the journal; created at the first score. An incomplete last line, left by a
            killed process, is dropped.
        writes: Whether new scores are written; one of several processes writes.

    Raises:
        InvalidFileError: The journal is damaged in another place.
    """

    def __init__(self, evaluator: Evaluator, path: Path, *, writes: bool = True) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.path = path
        self.writes = writes
        lines = read_json_lines(
            path, _Line, cuts=writes, remedy="delete that line to evaluate its architecture again"
        )
        self._scores = {line.architecture: line.score for line in lines}

    def _score(self, architecture: Architecture) -> float:
        if architecture not in self._scores:
            self._keep(architecture, self.evaluator.score(architecture))
        return self._scores[architecture]

    def scores(self, architectures: Sequence[Architecture]) -> Iterator[float]:
        """The scores of architectures, in their order; that is also the order in the file."""
        unknown = [a for a in dict.fromkeys(architectures) if a not in self._scores]
        found = zip(unknown, self.evaluator.scores(unknown), strict=True)
        for architecture in architectures:
            while architecture not in self._scores:
                self._keep(*next(found))
            self.evaluations += 1
            yield self._scores[architecture]

    def _keep(self, architecture: Architecture, score: float) -> None:
        if self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(_Line(architecture, score)) + b"\n")
        self._scores[architecture] = score
