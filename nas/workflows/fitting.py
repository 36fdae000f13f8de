"""Scaling of an architecture's widths to a target latency."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from latbench.errors import UnknownNameError
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.units import as_latency_ms
from latbench.workflows.table_checks import open_table
from nas.latency import correction
from nas.latency.aimed_proposals import widths_of
from nas.latency.correction import Correction
from nas.latency.feasible_range import unused
from nas.latency.measured_rounds import MeasuredRounds, RecordInTable
from nas.latency.priced_space import PricedSpace
from nas.latency.verified_rounds import Status
from nas.latency.width_scaling import METHODS, Fit
from nas.spaces import Architecture
from nas.workflows.confidence import at_confidence, margin_of
from nas.workflows.inputs import AnyArchitecture, AnyTable, as_architecture, is_efficient


@dataclass(frozen=True, repr=False)
class FittedArchitecture(Result):
    """An architecture whose widths were scaled to a latency.

    Attributes:
        target_ms: Target latency.
        latency_ms: Predicted latency of ``architecture``.
        min_ms: Lowest latency that its operations and depths can have.
        max_ms: Highest latency that they can have.
        architecture: The architecture with its new widths.
        correction: Measured latency and verdict of ``until_verified``; None without it.
        confidence: Probability with which the target is kept; None if none was asked for.
        upper_ms: Upper end of the predicted latency for that confidence.
    """

    target_ms: float
    latency_ms: float
    min_ms: float
    max_ms: float
    architecture: Architecture
    correction: Correction[Fit] | None = None
    confidence: float | None = None
    upper_ms: float | None = None

    @property
    def reached_ms(self) -> float:
        """Measured latency if there is one, otherwise the predicted latency."""
        return self.correction.measured_ms if self.correction else self.latency_ms

    @property
    def measured_ms(self) -> float | None:
        """Latency on the device; None if nothing was measured."""
        return self.correction.measured_ms if self.correction else None

    @property
    def rounds(self) -> int | None:
        """Number of rounds; None if nothing was measured."""
        return self.correction.rounds if self.correction else None

    @property
    def status(self) -> Status | None:
        """Verdict on the measured latency; None if nothing was measured."""
        return self.correction.status if self.correction else None

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values, with measurements if there are any."""
        plain: dict[str, Any] = {
            "target_ms": self.target_ms,
            "latency_ms": self.latency_ms,
            "min_ms": self.min_ms,
            "max_ms": self.max_ms,
            "architecture": self.architecture.as_dict(),
        }
        if self.correction is not None:
            plain |= self.correction.as_dict()
        if self.confidence is not None:
            plain |= {"confidence": self.confidence, "upper_ms": self.upper_ms}
            plain |= unused(self.target_ms, self.reached_ms)
        return plain


def fit(
    architecture: AnyArchitecture,
    table: AnyTable,
    *,
    target: str | float,
    method: str = "exact",
    widths: str = "any",
    confidence: float | None = None,
    until_verified: bool = False,
    measured: bool = False,
    progress: Progress = silent,
) -> FittedArchitecture:
    """Scale the widths of an architecture to a predicted or a measured latency.

    Operations and depths do not change. The predicted latency is at the target or just below it.

    Args:
        architecture: An architecture of a space with elastic widths, or the path of its file.
        table: A latency table of the architecture's space, or its path.
        target: Latency not to exceed, such as ``"0.5ms"``, or in ms.
        method: ``exact`` finds the closest latency; ``greedy`` is Algorithm 1 of TF-NAS (Hu, Wu
            and He, ECCV 2020).
        widths: ``any`` allows every width with a price; ``efficient`` allows only efficient widths.
        confidence: Probability with which a network keeps the target, such as 0.95. The upper end
            of the predicted interval is then at the target. The table must be calibrated with
            enough networks.
        until_verified: Measure networks on the device, and correct their widths until the measured
            latency meets the target with 95 % confidence.
        measured: Another name of ``until_verified``.
        progress: Callback with the fraction done and a short description.

    Raises:
        BudgetError: The architecture cannot reach the target; carries the nearest feasible one.
        InvalidValueError: The table has too few networks for the confidence.
        UnknownNameError: There is no such method.
        MismatchError: The table is for another space; or, if measured, for another machine.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    found, space = as_architecture(architecture)
    opened = open_table(table)
    margin = margin_of(opened, confidence)
    priced = PricedSpace(space, opened, efficient=is_efficient(widths), margin=margin)
    target_ms = as_latency_ms(target)
    scale = METHODS[method]
    corrected: Correction[Fit] | None = None
    with at_confidence(confidence):
        if until_verified or measured:
            corrected = _correct_on_device(priced, found, target_ms, method, progress=progress)
        result = corrected.fit if corrected else scale(priced, found, target_ms)
    return FittedArchitecture(
        target_ms,
        result.latency_ms / (1 + margin),
        result.min_ms / (1 + margin),
        result.max_ms / (1 + margin),
        result.architecture,
        corrected,
        confidence,
        result.latency_ms if confidence is not None else None,
    )


def _correct_on_device(
    priced: PricedSpace,
    architecture: Architecture,
    target_ms: float,
    method: str,
    *,
    progress: Progress,
) -> Correction[Fit]:
    """Correct widths on the device; the table keeps what an interrupted correction measured."""
    scale = METHODS[method]
    measure = correction.measurer(priced.table)
    prices = msgspec.to_builtins(priced.table.price_model)
    asked = (
        architecture.as_dict(),
        target_ms,
        method,
        priced.efficient,
        priced.margin,
        prices,
    )
    name = sha256(repr(asked).encode()).hexdigest()
    with Phases(progress, [Phase("measure")]) as phases:
        phases["measure"](0.0, "proposing widths")
        rounds = MeasuredRounds(
            priced,
            target_ms,
            measure,
            RecordInTable(priced.table.path, name),
            name=name,
            progress=phases["measure"],
        )
        propose = widths_of(priced, architecture, scale=scale)
        return correction.correct_on_device(priced, propose, rounds, scale=scale)
