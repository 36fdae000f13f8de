"""Records of a latency table: labels, origins, estimates, fits, prices, predictions, findings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec
import numpy as np

from latbench.result import Result
from latbench.tables.price_model import PriceModel

Role = Literal["block", "held-out", "included", "profile", "calibration", "verification"]
"""Use of a target: a priced block, a held-out width, a block that is included in the base time of
every network, or a network that belongs to a sweep with this purpose."""

LATER_ROLES: tuple[Role, ...] = ("calibration", "verification")
"""Uses of networks that a profiling did not visit. A verified network may be used for calibration
later; the prices are then fitted on it too."""

Purpose = Literal["profile", "calibration", "verification", "selection", "confirmation"]
"""Purpose of a sweep. A selection compares candidates for a budget, a confirmation measures the
chosen one once more."""


class SpaceLabel(msgspec.Struct, frozen=True, omit_defaults=True):
    """Label of the search space of a table; this package only compares labels.

    Attributes:
        se: Whether every block has squeeze-excite, in spaces where this is an option.
        activation: Activation of every block, in spaces where this is an option.
    """

    name: str
    input_size: int
    classes: int
    se: bool = False
    activation: Literal["relu6", "hswish"] = "relu6"

    def __post_init__(self) -> None:
        # a default is left out of the file only if it is the same object
        msgspec.structs.force_setattr(self, "activation", sys.intern(self.activation))

    def __str__(self) -> str:
        text = f"{self.name} at {self.input_size} px and {self.classes} classes"
        text += " with squeeze-excite" if self.se else ""
        return text + (f" with {self.activation}" if self.activation != "relu6" else "")


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Source of an imported table.

    Attributes:
        format: Name of the foreign format.
        file: Name of the file.
        duplicates: Number of entries dropped because another has the same key or block.
        unmapped: Number of entries that match no known block; they are kept.
        not_finite: Number of entries whose latency is not a finite number; they are kept.
        defects: Other defects, in words.
        unit: Unit in which the file was read, if not in that of its format.
    """

    format: str
    file: str
    duplicates: int
    unmapped: int
    not_finite: int
    defects: tuple[str, ...] = ()
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Latency of one target from its visits, in ms, with 95 % intervals.

    Attributes:
        noisy: Whether there are fewer visits than the protocol demands, or the interval is wider
            than its tolerance. In the sequential design only the visits count.
    """

    hot_ms: float
    hot_low_ms: float
    hot_high_ms: float
    cold_ms: float | None
    cold_low_ms: float | None
    cold_high_ms: float | None
    visits: int
    noisy: bool

    @classmethod
    def of_row(cls, values: Sequence[Any]) -> Self:
        """Estimate of the columns that a table's file has, in the order of the attributes."""
        *numbers, noisy = values
        return cls(*numbers, bool(noisy))  # type: ignore[call-arg]

    @property
    def cold_or_hot_ms(self) -> float:
        """Cold latency, or the hot latency if no cold calls were made."""
        return self.hot_ms if self.cold_ms is None else self.cold_ms


class StoredFit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price model with its quality measures.

    Attributes:
        price: The price model.
        floor: Split-half noise of the calibration networks; None for too few visits.
        noisy: Whether the split-half noise exceeds the protocol's tolerance.
        held_out_errors: Relative errors (predicted / measured - 1) at held-out widths, which are
            measured only for this check and not used for interpolation.
        calibrated: Whether networks were added to those of the profiling.
        drifts: Latency of the machine in each later sweep over that of the profiling.
    """

    price: PriceModel
    floor: float | None = None
    noisy: bool = False
    held_out_errors: tuple[float, ...] = ()
    calibrated: bool = False
    drifts: tuple[float, ...] = ()

    @property
    def held_out_error(self) -> float | None:
        """Mean absolute error of interpolation; None without held-out widths."""
        if not self.held_out_errors:
            return None
        return float(np.abs(self.held_out_errors).mean())

    @property
    def held_out_p95(self) -> float | None:
        """95 % quantile of the interpolation error at held-out widths."""
        if not self.held_out_errors:
            return None
        return float(np.quantile(np.abs(self.held_out_errors), 0.95))


@dataclass(frozen=True, repr=False)
class Prediction(Result):
    """Predicted latency of a network in ms; its interval is None without a calibration."""

    latency_ms: float
    low_ms: float | None = None
    high_ms: float | None = None


@dataclass(frozen=True, repr=False)
class TableCheck(Result):
    """Findings of ``table check``.

    Attributes:
        entries: Number of priced blocks and of imported entries that match no known block. Each
            counts once here, even if it also counts below.
        negative: Keys of blocks whose price is not positive.
        noisy: Keys of blocks with too few visits or, in the uniform design, an interval wider than
            the tolerance, and of interpolated blocks whose width class was not measured on both
            sides of them.
        unmapped: Number of imported entries that match no known block.
        not_finite: Number of imported entries whose latency is infinite or not a number.
        duplicates: Number of imported entries dropped because another has the same key or block.
        unpriced: Number of blocks that are registered but not measured yet.
        stale: Differences between the table's environment and the present one.
    """

    entries: int
    negative: tuple[str, ...]
    noisy: tuple[str, ...]
    unmapped: int
    not_finite: int
    duplicates: int
    unpriced: int
    stale: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not (self.negative or self.noisy or self.not_finite or self.unpriced or self.stale)

    def as_dict(self) -> dict[str, Any]:
        """Counts and verdict as plain JSON values."""
        return {
            "entries": self.entries,
            "negative": len(self.negative),
            "noisy": len(self.noisy),
            "unmapped": self.unmapped,
            "not_finite": self.not_finite,
            "duplicates": self.duplicates,
            "unpriced": self.unpriced,
            "stale": list(self.stale),
            "passed": self.passed,
        }


@dataclass(frozen=True)
class Price:
    """Price of a block in ms, with its uncertainty.

    Attributes:
        low_ms: Lower end of the 95 % interval, 0 or more.
        high_ms: Upper end of the 95 % interval.
        source: Origin of the price: measured at this width, interpolated between widths,
            transferred from another device, imported unchanged, or included in the time that every
            network pays once.
        noisy: Whether the price is unreliable, because the block has too few visits or too wide an
            interval (see ``Estimate``), or the width class was not measured on both sides of it.
    """

    price_ms: float
    low_ms: float
    high_ms: float
    source: Literal["measured", "interpolated", "transferred", "imported", "included"]
    noisy: bool = False
