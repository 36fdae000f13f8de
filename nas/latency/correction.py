"""Correction on a target as measured: architectures corrected until the device agrees.

A table predicts within some percent, and a machine moves by some more between two hours. Where
that is too much, the network itself is measured: by what it misses its target, the latency that is
aimed at is moved, and so on until the measured latency is at the target or just below. As long as
widths reach what is aimed at, they alone are changed; beyond, other operations and depths are
asked for, by whoever proposed the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from latbench.blocks import Network
from latbench.errors import BudgetError, InvalidFileError
from latbench.files import write_atomically
from latbench.profilers import make_profiler
from latbench.progress import Progress
from latbench.tables import LatencyTable
from latbench.workflows.network_sweep import require_device
from latbench.workflows.verification import verify_apart
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit, Method, fit_exact
from nas.spaces import Architecture

TOLERANCE = 0.01  # of the target: how far below it a network may be measured and be done
ROUNDS = 6
_AIM = 1 - TOLERANCE / 2  # the middle of what is good enough

Range = tuple[float, float]
"""The ends of a range of latencies in ms."""

Measure = Callable[[Network, Progress], float]
"""Measures a network, in ms; tells how far it is."""

F = TypeVar("F", bound=Fit)
F_co = TypeVar("F_co", bound=Fit, covariant=True)


class Propose(Protocol[F_co]):
    """What proposes an architecture for a latency."""

    def __call__(self, aim_ms: float, width_range_ms: Range, /) -> F_co:
        """An architecture predicted at or just below ``aim_ms``.

        Args:
            aim_ms: The prediction wanted.
            width_range_ms: What its widths should reach, if any architecture's do.

        Raises:
            BudgetError: Nothing more can be proposed.
        """


@dataclass(frozen=True)
class Correction(Generic[F_co]):
    """An architecture whose measured latency was brought to a target.

    Attributes:
        measured_ms: Latency of ``fit.architecture`` as measured in the last round it was in.
        rounds: Networks that were measured.
    """

    target_ms: float
    fit: F_co
    measured_ms: float
    rounds: int

    @property
    def error(self) -> float:
        """measured / target - 1."""
        return self.measured_ms / self.target_ms - 1


def correct_on_device(
    priced: PricedSpace,
    propose: Propose[F],
    target_ms: float,
    measure_ms: Callable[[Architecture], float],
    *,
    scale: Method = fit_exact,
) -> Correction[F]:
    """Correct an architecture until its measured latency is at most ``TOLERANCE`` below a target.

    Args:
        priced: The space and its prices.
        propose: Gives the first architecture, and others where widths do not go further. Every
            further one is asked to reach all that was aimed at in vain, so none comes again.
        target_ms: What is to be measured in the end.
        measure_ms: Measures an architecture, in ms.
        scale: Scales widths to what is aimed at.

    Returns:
        The best of what was measured: not above the target if any was not, then the closest.

    Raises:
        BudgetError: Nothing can be proposed for the target.
    """
    corrections: list[Correction[F]] = []
    low_ms = high_ms = target_ms
    fitted = propose(target_ms, (low_ms, high_ms))
    for number in range(1, ROUNDS + 1):
        measured_ms = measure_ms(fitted.architecture)
        corrections.append(Correction(target_ms, fitted, measured_ms, number))
        if -TOLERANCE <= corrections[-1].error <= 0:
            break
        aim_ms = target_ms * _AIM * fitted.latency_ms / measured_ms
        if not fitted.min_ms <= aim_ms <= fitted.max_ms:
            low_ms, high_ms = min(low_ms, aim_ms), max(high_ms, aim_ms)
            try:
                fitted = propose(aim_ms, (low_ms, high_ms))
            except BudgetError:
                fitted = _scaled(priced, fitted, aim_ms, scale)  # as far as the widths go
        else:
            fitted = _scaled(priced, fitted, aim_ms, scale)
        if fitted.architecture in [correction.fit.architecture for correction in corrections]:
            break
    best = min(corrections, key=lambda correction: (correction.error > 0, abs(correction.error)))
    return replace(best, rounds=len(corrections))


def widths_of(
    priced: PricedSpace, architecture: Architecture, *, scale: Method = fit_exact
) -> Propose[Fit]:
    """Proposes one architecture at the widths that fit best; operations and depths stay."""

    def propose(aim_ms: float, width_range_ms: Range) -> Fit:
        return scale(priced, architecture, aim_ms)

    return propose


def measurer(table: LatencyTable) -> Measure:
    """Measures networks of a table's space on its device, each in a process of its own.

    Raises:
        MismatchError: The table is of another device or machine.
        MissingExtraError: Its runtime is not installed.
    """
    require_device(make_profiler(table.device), table)

    def measure(network: Network, progress: Progress) -> float:
        found = verify_apart(table.path, [network], progress=progress)
        return found.networks[0].measured.estimate_ms

    return measure


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured in one round of a correction."""

    architecture: Architecture
    predicted_ms: float
    measured_ms: float


class Rounds:
    """Measures architectures once: what was measured is kept in a file.

    A correction that was interrupted asks for the same architectures in the same order, is answered
    from the file and goes on. Without the file the correction begins anew.

    Args:
        file: A JSON list of rounds, written after each.
        priced: The space and its prices.
        measure_ms: Measures what the file does not know.
        log: Told the number of a round and what it found, once.

    Raises:
        InvalidFileError: The file is damaged.
    """

    def __init__(
        self,
        file: Path,
        priced: PricedSpace,
        measure_ms: Callable[[Network], float],
        log: Callable[[int, dict[str, float | None]], None],
    ) -> None:
        self.file = file
        self.priced = priced
        self.measure_ms = measure_ms
        self.log = log
        self.rounds: list[Round] = []
        if file.exists():
            try:
                self.rounds = msgspec.json.decode(file.read_bytes(), type=list[Round])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InvalidFileError(
                    f"{file} is damaged: {error}; delete it to measure again"
                ) from error

    def __call__(self, architecture: Architecture) -> float:
        """Latency of an architecture in ms."""
        for known in self.rounds:
            if known.architecture == architecture:
                return known.measured_ms
        measured_ms = self.measure_ms(self.priced.space.lower(architecture))
        found = Round(architecture, self.priced.latency_ms(architecture), measured_ms)
        self.rounds.append(found)
        write_atomically(self.file, msgspec.json.format(msgspec.json.encode(self.rounds)))
        values: dict[str, Any] = {
            "predicted_ms": found.predicted_ms,
            "measured_ms": found.measured_ms,
        }
        self.log(len(self.rounds), values)
        return measured_ms


def _scaled(priced: PricedSpace, fitted: F, aim_ms: float, scale: Method) -> F:
    """The same with widths for another latency, as near as they come to it."""
    if fitted.min_ms == fitted.max_ms:
        return fitted  # widths that may not be changed, or that change nothing
    found = scale(priced, fitted.architecture, aim_ms, clamp=True)
    return replace(fitted, **vars(found))
