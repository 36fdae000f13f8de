"""On-device correction: change an architecture until its measured latency meets the target.

A table's prediction is off by a few percent, and the speed of a machine drifts by a few more within
hours. Where that is too much, the network itself is measured. The difference between measurement
and target corrects the latency that the next round aims at. The rounds end when the measured
latency is at the target or just below. A round changes only widths if widths suffice for its aim.
Otherwise it asks the proposer of the first architecture for other operations and depths.
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
from latbench.workflows.network_errors import verify_apart
from latbench.workflows.network_sweep import require_device
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit, Method, fit_exact
from nas.spaces import Architecture

TOLERANCE = 0.01  # accepted gap between measured latency and target, as a fraction of the target
ROUNDS = 6
_AIM = 1 - TOLERANCE / 2  # middle of the accepted range, as a fraction of the target

Range = tuple[float, float]
"""Lower and upper end of a range of latencies in ms."""

Measure = Callable[[Network, Progress], float]
"""Measures a network in ms, and reports its progress."""

F = TypeVar("F", bound=Fit)
F_co = TypeVar("F_co", bound=Fit, covariant=True)


class Propose(Protocol[F_co]):
    """A function that proposes an architecture for a latency."""

    def __call__(self, aim_ms: float, width_range_ms: Range, /) -> F_co:
        """An architecture predicted at or just below ``aim_ms``.

        Args:
            aim_ms: Upper limit of the predicted latency.
            width_range_ms: Range of latencies that the architecture should cover by its widths
                alone, if any architecture does.

        Raises:
            BudgetError: There is no further architecture to propose.
        """


@dataclass(frozen=True)
class Correction(Generic[F_co]):
    """An architecture that was corrected until its measured latency met a target.

    Attributes:
        target_ms: Latency that was asked for.
        fit: The architecture and its predicted latency.
        measured_ms: Measured latency of ``fit.architecture``.
        rounds: Number of networks that were measured.
    """

    target_ms: float
    fit: F_co
    measured_ms: float
    rounds: int

    @property
    def error(self) -> float:
        """Relative error: measured / target - 1."""
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
        propose: Proposes the first architecture, and another one whenever widths do not suffice.
            The range that it gets includes all aims so far, so it proposes nothing twice.
        target_ms: Measured latency to end with.
        measure_ms: Measures an architecture in ms.
        scale: Method that scales widths to a predicted latency.

    Returns:
        The best of the measured architectures: the closest one at or below the target, or the
        closest one above it if none is below.

    Raises:
        BudgetError: There is no architecture to propose for the target.
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
                fitted = _scaled(
                    priced, fitted, aim_ms, scale
                )  # the closest latency that its widths allow
        else:
            fitted = _scaled(priced, fitted, aim_ms, scale)
        if fitted.architecture in [correction.fit.architecture for correction in corrections]:
            break
    best = min(corrections, key=lambda correction: (correction.error > 0, abs(correction.error)))
    return replace(best, rounds=len(corrections))


def widths_of(
    priced: PricedSpace, architecture: Architecture, *, scale: Method = fit_exact
) -> Propose[Fit]:
    """Propose always the same operations and depths, with the widths that fit best."""

    def propose(aim_ms: float, width_range_ms: Range) -> Fit:
        return scale(priced, architecture, aim_ms)

    return propose


def measurer(table: LatencyTable) -> Measure:
    """A function that measures networks on a table's device, each in a process of its own.

    Raises:
        MismatchError: The table belongs to another device or machine.
        MissingExtraError: The runtime of the table is not installed.
    """
    require_device(make_profiler(table.device), table)

    def measure(network: Network, progress: Progress) -> float:
        found = verify_apart(table.path, [network], progress=progress)
        return found.networks[0].measured.estimate_ms

    return measure


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Predicted and measured latency of one round of a correction."""

    architecture: Architecture
    predicted_ms: float
    measured_ms: float


class Rounds:
    """Measures each architecture once, and keeps the measurements in a file.

    An interrupted correction that starts again asks for the same architectures in the same order.
    It gets the known latencies from the file, and then goes on. Without the file it starts over.

    Args:
        file: JSON list of rounds, written after each round.
        priced: The space and its prices.
        measure_ms: Measures a network that is not in the file.
        log: Called once a round, with its number and its latencies.

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
    """The same operations and depths, with widths as close to another latency as possible."""
    if fitted.min_ms == fitted.max_ms:
        return fitted  # widths are fixed, or do not change the latency
    found = scale(priced, fitted.architecture, aim_ms, clamp=True)
    return replace(fitted, **vars(found))
