"""Records of verified budgets: what each round proposed and measured, and the verdict.

A search keeps one file of them for each target (``measured/0.5ms.json`` in the run folder). It is
written after every sweep, so that an interrupted search goes on, and reports read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from latbench.errors import InvalidFileError
from latbench.files import write_atomically
from latbench.measure.samples import Interval
from latbench.measure.swept_networks import SweptNetworks
from nas.spaces import Architecture

Status = Literal["met", "missed", "undecided"]
"""Verdict on a measured latency and its budget.

``met``: the upper end of the 95 % interval is at most the budget. ``missed``: the lower end is
above the budget. ``undecided``: the budget lies inside the interval. The verdict of all rounds asks
for more: see ``nas.latency.correction``.
"""


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An architecture of a round, predicted and measured.

    Attributes:
        architecture: The architecture.
        predicted_ms: Latency that the table predicts.
        predicted_low_ms: Lower end of its 90 % interval; None before a calibration of the table.
        predicted_high_ms: Upper end of its 90 % interval.
        measured_ms: Measured latency.
        measured_low_ms: Lower end of its 95 % interval, with the machine's drift.
        measured_high_ms: Upper end of its 95 % interval.
        status: Verdict on this measurement alone.
    """

    architecture: Architecture
    predicted_ms: float
    predicted_low_ms: float | None
    predicted_high_ms: float | None
    measured_ms: float
    measured_low_ms: float
    measured_high_ms: float
    status: Status


class VerifiedRound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One round: several candidates in one sweep, then some of them again in fresh sweeps.

    Attributes:
        candidates: The candidates, measured together.
        confirmations: Candidates that were measured once more. Only these measurements decide,
            because the best of several measurements is too good on average.
        sweeps: The sweeps behind them: that of the candidates, then one for each confirmation.
    """

    candidates: tuple[Candidate, ...]
    confirmations: tuple[Candidate, ...]
    sweeps: tuple[SweptNetworks, ...]


class VerifiedRounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All rounds for one target.

    Attributes:
        target_ms: The budget.
        rounds: The finished rounds, and the one in progress.
        status: Verdict; None while rounds go on.
        reason: The verdict in words.
    """

    target_ms: float
    rounds: tuple[VerifiedRound, ...] = ()
    status: Status | None = None
    reason: str = ""

    @property
    def sweeps(self) -> tuple[SweptNetworks, ...]:
        """All sweeps, in the order in which they were made."""
        return tuple(sweep for each in self.rounds for sweep in each.sweeps)


def status_of(found: Interval, target_ms: float) -> Status:
    """The verdict on one measured latency."""
    if found.high_ms <= target_ms:
        return "met"
    return "missed" if found.low_ms > target_ms else "undecided"


def read_rounds(file: Path) -> VerifiedRounds:
    """Read the rounds of a file.

    Raises:
        InvalidFileError: The file is damaged.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=VerifiedRounds)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"{file} is damaged: {error}; delete it to measure again") from error


def write_rounds(file: Path, rounds: VerifiedRounds) -> None:
    """Write a file of rounds; a reader sees the old or the new file only.

    Raises:
        InvalidFileError: The file cannot be written.
    """
    write_atomically(file, msgspec.json.format(msgspec.json.encode(rounds)) + b"\n")
