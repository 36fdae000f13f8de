"""Records of a pruning: what each round removed, and the latency that was measured.

The run folder keeps them, so an interrupted pruning goes on, and reports read them without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from latbench.errors import InvalidFileError
from latbench.files import write_atomically
from latbench.measure.samples import Interval


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pruned network, predicted and measured.

    Attributes:
        removed: Removed channels by name of their group.
        predicted_ms: Latency as the table predicts it.
        measured: Measured latency.
        original: Measured latency of the whole network, in the same sweep.
        ratio: Ratio of both, pass by pass, with its 95 % interval.
    """

    removed: dict[str, list[int]]
    predicted_ms: float
    measured: Interval
    original: Interval
    ratio: tuple[float, float, float]

    def meets(self, target_ms: float) -> bool:
        """Whether the upper end of the interval is at most the target."""
        return self.measured.high_ms <= target_ms

    def status(self, target_ms: float) -> Literal["met", "missed"]:
        """The verdict on the measured latency."""
        return "met" if self.meets(target_ms) else "missed"


class Rounds(msgspec.Struct, forbid_unknown_fields=True):
    """All rounds so far, and whether no further one is needed."""

    rounds: list[Round] = []
    finished: bool = False


def rounds_file(run: Path) -> Path:
    """File of the rounds in the folder of a pruning."""
    return run / "rounds.json"


def best_round(rounds: Sequence[Round], target_ms: float) -> Round:
    """The slowest round that meets the target; the fastest one if none does."""
    met = [each for each in rounds if each.meets(target_ms)]
    if met:
        return max(met, key=lambda each: each.predicted_ms)
    return min(rounds, key=lambda each: each.measured.high_ms)


def read_rounds(file: Path) -> Rounds:
    """Read the rounds of a file; none if it does not exist.

    Raises:
        InvalidFileError: The file is damaged.
    """
    if not file.exists():
        return Rounds()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Rounds)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidFileError(
            f"{file} is not rounds of a pruning: {error}; choose another folder (-o)"
        ) from error


def write_rounds(file: Path, rounds: Rounds) -> None:
    """Write a file of rounds; a reader sees the old or the new file only.

    Raises:
        InvalidFileError: The file cannot be written.
    """
    write_atomically(file, msgspec.json.format(msgspec.json.encode(rounds)))
