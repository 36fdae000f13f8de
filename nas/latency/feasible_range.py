"""Feasible range of latencies: refuse a target outside of it; what a latency leaves of a target."""

from __future__ import annotations

from latbench.errors import BudgetError
from latbench.units import format_ms, format_span_ms

_ROUNDING = 1e-9  # sums of the same prices in another order differ in their last digits


def check_feasible(target_ms: float, low_ms: float, high_ms: float, *, what: str) -> None:
    """Refuse a target outside of the feasible range.

    Raises:
        BudgetError: Carries the nearest bound as ``nearest_ms``.
    """
    if low_ms * (1 - _ROUNDING) <= target_ms <= high_ms * (1 + _ROUNDING):
        return
    nearest, inwards = (low_ms, 1 + 1e-5) if target_ms < low_ms else (high_ms, 1 - 1e-5)
    where = "out of reach" if target_ms < low_ms else "longer than needed"
    raise BudgetError(
        f"{format_ms(target_ms)} is {where}: {what} takes {format_span_ms(low_ms, high_ms)} "
        f"on this device; the nearest feasible target is {nearest * inwards:.6g}ms",
        nearest_ms=nearest,
    )


def unused(target_ms: float, reached_ms: float) -> dict[str, float]:
    """The part of a target that a latency leaves, in ms and as a fraction."""
    return {"unused_ms": target_ms - reached_ms, "unused": 1 - reached_ms / target_ms}
