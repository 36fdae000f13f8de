"""Records of a latency table: labels, origins, estimates and fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from latbench.tables.price_model import PriceModel

Role = Literal["block", "held-out", "included", "profile", "calibration", "verification"]
"""Use of a target: a priced block, a held-out width, a block that is included in the base time of
every network, or a network that belongs to a sweep with this purpose."""

Purpose = Literal["profile", "calibration", "verification"]
"""Purpose of a sweep."""


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
    """

    format: str
    file: str
    duplicates: int
    unmapped: int
    not_finite: int
    defects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """Latency of one target from its visits, in ms, with 95 % intervals.

    Attributes:
        noisy: Whether the interval is wider than the protocol's tolerance.
    """

    hot_ms: float
    hot_low_ms: float
    hot_high_ms: float
    cold_ms: float | None
    cold_low_ms: float | None
    cold_high_ms: float | None
    visits: int
    noisy: bool

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
    """

    price: PriceModel
    floor: float | None = None
    noisy: bool = False
    held_out_errors: tuple[float, ...] = ()
    calibrated: bool = False

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
