"""A journal of scores: no score is lost, and no architecture is evaluated twice.

A restarted searcher with the same seed asks for the same architectures in the same order, and the
journal answers. So an interrupted search resumes bit-exactly, and the searcher need not save any
state.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from latbench.errors import InvalidFileError
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
        self._scores: dict[Architecture, float] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                known = msgspec.json.decode(line, type=_Line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InvalidFileError(
                    f"{self.path} is damaged in line {number}: {error}; delete that line to "
                    "evaluate its architecture again",
                    path=f"$[{number - 1}]",
                ) from error
            self._scores[known.architecture] = known.score
        if self.writes and len(whole) < len(text):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def _score(self, architecture: Architecture) -> float:
        if architecture not in self._scores:
            score = self.evaluator.score(architecture)
            if self.writes:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as file:
                    file.write(msgspec.json.encode(_Line(architecture, score)) + b"\n")
            self._scores[architecture] = score
        return self._scores[architecture]
