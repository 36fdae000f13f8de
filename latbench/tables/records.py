"""What a latency table holds besides blocks and their times: labels, estimates, fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from latbench.tables.price_model import PriceModel

Role = Literal["block", "held-out", "included", "profile", "calibration", "verification"]
"""What a target is for: a block's price, a held-out width, a block without a price because every
network pays for it once, or a network of a sweep's purpose."""

Purpose = Literal["profile", "calibration", "verification"]
"""What a sweep is for."""


class SpaceLabel(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which search space a table was filled for; this package only compares labels.

    Attributes:
        se: Squeeze-excite in every block, in spaces that leave it open.
        activation: Of every block, in spaces that leave it open.
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
    """Where a table that was not measured here comes from.

    Attributes:
        format: Name of the foreign format.
        file: Name of the file.
        duplicates: Entries dropped because another stands for the same thing.
        unmapped: Entries that price no block known here; they are kept.
        not_finite: Entries whose latency is no number; they are kept.
        defects: What else is wrong, in words.
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
        noisy: The interval is wider than the protocol's tolerance: not to be trusted silently.
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
        """The cold latency, or the hot one where no cold calls were made."""
        return self.hot_ms if self.cold_ms is None else self.cold_ms


class StoredFit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price model with what the measurements say of themselves.

    Attributes:
        price: The model.
        floor: Calibration networks against themselves, between two halves of the sweep; None
            for too few visits.
        noisy: The floor exceeds the protocol's tolerance.
        held_out_errors: predicted / measured - 1 at widths that were measured for this purpose
            alone and take no part in the interpolation.
        calibrated: Networks were added to those of the profiling.
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
        """The error of interpolation that 95 % of the held-out widths stay below."""
        if not self.held_out_errors:
            return None
        return float(np.quantile(np.abs(self.held_out_errors), 0.95))
