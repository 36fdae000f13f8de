"""Scaling of an architecture's widths to a target latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latbench.errors import UnknownNameError
from latbench.progress import Progress, silent
from latbench.result import Result
from latbench.units import as_latency_ms
from latbench.workflows.table_checks import open_table
from nas.latency import correction
from nas.latency.correction import Correction
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import METHODS, Fit, Method
from nas.spaces import Architecture
from nas.workflows.inputs import AnyArchitecture, AnyTable, as_architecture


@dataclass(frozen=True, repr=False)
class FittedArchitecture(Result):
    """An architecture whose widths were scaled to a latency.

    Attributes:
        target_ms: Target latency.
        latency_ms: Predicted latency of ``architecture``.
        min_ms: Lowest latency that its operations and depths can have.
        max_ms: Highest latency that they can have.
        architecture: The architecture with its new widths.
        measured_ms: Latency on the device; None if nothing was measured.
        rounds: Number of measured networks; None if nothing was measured.
    """

    target_ms: float
    latency_ms: float
    min_ms: float
    max_ms: float
    architecture: Architecture
    measured_ms: float | None = None
    rounds: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values, with measurements if there are any."""
        plain = {
            "target_ms": self.target_ms,
            "latency_ms": self.latency_ms,
            "min_ms": self.min_ms,
            "max_ms": self.max_ms,
            "architecture": self.architecture.as_dict(),
        }
        if self.measured_ms is None:
            return plain
        return plain | {"measured_ms": self.measured_ms, "rounds": self.rounds}


def fit(
    architecture: AnyArchitecture,
    table: AnyTable,
    *,
    target: str | float,
    method: str = "exact",
    widths: str = "any",
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
        measured: Measure the network on the device, and correct its widths until the measured
            latency meets the target.
        progress: Callback with the fraction done and a short description.

    Raises:
        BudgetError: The architecture cannot reach the target; carries the nearest feasible one.
        UnknownNameError: There is no such method.
        MismatchError: The table is for another space; or, if measured, for another machine.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    found, space = as_architecture(architecture)
    priced = PricedSpace(space, open_table(table), efficient=widths == "efficient")
    target_ms = as_latency_ms(target)
    scale = METHODS[method]
    corrected = (
        _correct_on_device(priced, found, target_ms, scale, progress=progress) if measured else None
    )
    result = corrected.fit if corrected else scale(priced, found, target_ms)
    return FittedArchitecture(
        target_ms,
        result.latency_ms,
        result.min_ms,
        result.max_ms,
        result.architecture,
        corrected.measured_ms if corrected else None,
        corrected.rounds if corrected else None,
    )


def _correct_on_device(
    priced: PricedSpace,
    architecture: Architecture,
    target_ms: float,
    scale: Method,
    *,
    progress: Progress,
) -> Correction[Fit]:
    measure = correction.measurer(priced.table)

    def measure_ms(candidate: Architecture) -> float:
        return measure(priced.space.lower(candidate), progress)

    propose = correction.widths_of(priced, architecture, scale=scale)
    return correction.correct_on_device(priced, propose, target_ms, measure_ms, scale=scale)
