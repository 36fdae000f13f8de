"""The rounds of a verified budget: they measure, and keep every sweep as soon as it is done.

An interrupted correction that starts again asks for the same architectures in the same order. It
gets the known measurements from its record, and then goes on. A search keeps the record in its run
folder, where reports read it. A fit has no folder: it keeps the record in the table's file until it
is done. Rounds that ended undecided are measured anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from msgspec.structs import replace

from latbench.blocks import Network
from latbench.measure.swept_networks import SweptNetworks, interval, spread
from latbench.progress import Progress, silent
from latbench.tables import TableStore
from latbench.workflows.verdict_sweep import SweepRule
from nas.latency.priced_space import PricedSpace
from nas.latency.verified_rounds import (
    Candidate,
    Status,
    VerifiedRound,
    VerifiedRounds,
    read_rounds,
    status_of,
    write_rounds,
)
from nas.spaces import Architecture

ROUNDS = 6

Purpose = Literal["selection", "confirmation"]


class Measure(Protocol):
    """A function that measures networks in one sweep, together with reference networks."""

    def __call__(
        self, networks: Sequence[Network], rule: SweepRule, progress: Progress, /
    ) -> SweptNetworks: ...


class Record(Protocol):
    """A place that keeps the rounds of an interrupted correction."""

    def load(self) -> VerifiedRounds | None:
        """The rounds so far; None before the first sweep."""

    def save(self, rounds: VerifiedRounds) -> None:
        """Keep these rounds instead."""


class RecordFile:
    """A record in a file of its own, which stays after the verdict."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def load(self) -> VerifiedRounds | None:
        return read_rounds(self.file) if self.file.exists() else None

    def save(self, rounds: VerifiedRounds) -> None:
        write_rounds(self.file, rounds)


class RecordInTable:
    """A record in the file of a latency table, which is removed after the verdict.

    Args:
        table: Path of the table.
        key: Text that says what is corrected.
    """

    def __init__(self, table: Path, key: str) -> None:
        self.table = table
        self.key = key

    def load(self) -> VerifiedRounds | None:
        with TableStore.open(self.table) as store:
            return store.unfinished(self.key, VerifiedRounds)

    def save(self, rounds: VerifiedRounds) -> None:
        with TableStore.open(self.table) as store:
            store.record_unfinished(self.key, rounds if rounds.status is None else None)


class MeasuredRounds:
    """Measures the candidates of each round, and keeps the measurements in a record.

    Args:
        priced: The space and its prices.
        target_ms: The budget.
        measure: Measures networks that the record does not have.
        kept: The record.
        name: Text that the sweeps for this budget have in common in the table.
        log: Called once a round, with its number and its latencies.
        progress: Callback that reports the progress.

    Attributes:
        record: The rounds so far.

    Raises:
        InvalidFileError: The record is damaged.
    """

    def __init__(
        self,
        priced: PricedSpace,
        target_ms: float,
        measure: Measure,
        kept: Record,
        *,
        name: str,
        log: Callable[[int, dict[str, float | None]], None] = lambda number, values: None,
        progress: Progress = silent,
    ) -> None:
        self.priced = priced
        self.target_ms = target_ms
        self.measure = measure
        self.kept = kept
        self.name = name
        self.log = log
        self.progress = progress
        self.record = VerifiedRounds(target_ms)
        known = kept.load()
        # after an undecided verdict the same command measures anew, perhaps at a quieter time
        self._known = None if known is not None and known.status == "undecided" else known

    def select(self, architectures: Sequence[Architecture]) -> tuple[Candidate, ...]:
        """Begin a round: measure several architectures in one sweep."""
        self._log_round()
        known = self._known_round(len(self.record.rounds))
        if known is not None and [c.architecture for c in known.candidates] == list(architectures):
            made = replace(known, confirmations=(), sweeps=known.sweeps[:1])
            self.record = replace(self.record, rounds=(*self.record.rounds, made))
            return made.candidates
        swept = self._sweep(architectures, "selection", len(self.record.rounds))
        made = VerifiedRound(self._candidates(architectures, swept), (), (swept,))
        self._keep(replace(self.record, rounds=(*self.record.rounds, made)))
        return made.candidates

    def confirm(self, architecture: Architecture) -> Candidate:
        """Measure an architecture of the round once more, in a sweep of its own."""
        *before, made = self.record.rounds
        count = len(made.confirmations)
        known = self._known_round(len(before))
        if (
            known is not None
            and len(known.confirmations) > count
            and known.confirmations[count].architecture == architecture
        ):
            candidate, swept = known.confirmations[count], known.sweeps[count + 1]
            made = _confirmed(made, candidate, swept)
            self.record = replace(self.record, rounds=(*before, made))
            return candidate
        swept = self._sweep([architecture], "confirmation", len(before))
        (candidate,) = self._candidates([architecture], swept)
        made = _confirmed(made, candidate, swept)
        self._keep(replace(self.record, rounds=(*before, made)))
        return candidate

    def finish(self, status: Status, reason: str) -> VerifiedRounds:
        """Record the verdict; return the whole record."""
        self._log_round()
        self.record = replace(self.record, status=status, reason=reason)
        if self.record != self._known:
            self.kept.save(self.record)
        return self.record

    def _known_round(self, index: int) -> VerifiedRound | None:
        known = self._known.rounds if self._known is not None else ()
        return known[index] if index < len(known) else None

    def _sweep(
        self, architectures: Sequence[Architecture], purpose: Purpose, index: int
    ) -> SweptNetworks:
        first = index + (0.5 if purpose == "confirmation" else 0.0)

        def report(done: float, words: str) -> None:
            ended = 1 - 0.5 ** (first + done / 2)  # half of all rounds are the last one
            self.progress(ended, f"round {index + 1}, {purpose}, {words}")

        rule = SweepRule(purpose, self.target_ms, self.name, self.record.sweeps)
        networks = [self.priced.space.lower(each) for each in architectures]
        return self.measure(networks, rule, report)

    def _candidates(
        self, architectures: Sequence[Architecture], swept: SweptNetworks
    ) -> tuple[Candidate, ...]:
        relative = spread((*self.record.sweeps, swept))
        made = []
        for architecture, network in zip(architectures, swept.networks, strict=True):
            predicted = self.priced.table.predict(self.priced.space.lower(architecture))
            found = interval(network, relative)
            made.append(
                Candidate(
                    architecture,
                    predicted.latency_ms,
                    predicted.low_ms,
                    predicted.high_ms,
                    found.estimate_ms,
                    found.low_ms,
                    found.high_ms,
                    status_of(found, self.target_ms),
                )
            )
        return tuple(made)

    def _keep(self, record: VerifiedRounds) -> None:
        self.record = record
        self._known = None  # what was known after this is replaced
        self.kept.save(record)

    def _log_round(self) -> None:
        """Log the measurement that decided the last round: its confirmation, or the closest."""
        if not self.record.rounds:
            return
        last = self.record.rounds[-1]
        found = last.confirmations[-1:] or last.candidates
        nearest = min(found, key=lambda each: abs(each.measured_ms - self.target_ms))
        values: dict[str, float | None] = {
            "predicted_ms": nearest.predicted_ms,
            "measured_ms": nearest.measured_ms,
            "measured_low_ms": nearest.measured_low_ms,
            "measured_high_ms": nearest.measured_high_ms,
        }
        self.log(len(self.record.rounds), values)


def _confirmed(made: VerifiedRound, candidate: Candidate, swept: SweptNetworks) -> VerifiedRound:
    return VerifiedRound(made.candidates, (*made.confirmations, candidate), (*made.sweeps, swept))
