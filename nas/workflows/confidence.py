"""Targets that networks keep with a given confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from latbench.errors import BudgetError
from latbench.tables import LatencyTable
from latbench.tables.chance import upper_margin
from nas.latency.priced_space import PricedSpace
from nas.spaces import Architecture

if TYPE_CHECKING:
    from nas.searchers import SearchResult  # imports torch, which a fit does not need


def margin_of(table: LatencyTable, confidence: float | None) -> float:
    """Margin of latencies for a confidence; 0 without one.

    Raises:
        InvalidValueError: The table cannot give this confidence.
    """
    return 0.0 if confidence is None else upper_margin(table, confidence)


@contextmanager
def at_confidence(confidence: float | None) -> Iterator[None]:
    """Context manager in which errors about budgets say that a confidence was asked for."""
    try:
        yield
    except BudgetError as error:
        if confidence is None:
            raise
        raise BudgetError(
            f"{error.message} (with a confidence of {confidence:g}: these are upper ends of "
            "predicted latencies)",
            nearest_ms=error.nearest_ms,
            nearest_macs_m=error.nearest_macs_m,
            nearest_params_m=error.nearest_params_m,
        ) from error


def without_margin(
    result: SearchResult, priced: Sequence[PricedSpace], confidence: float
) -> SearchResult:
    """A result with predicted latencies, after a search that used their upper ends."""

    def predicted_ms(architecture: Architecture) -> float:
        return max(each.predicted_ms(architecture) for each in priced)

    argmax = result.argmax
    if argmax is not None:
        argmax = replace(argmax, latency_ms=predicted_ms(argmax.architecture))
    return replace(
        result,
        latency_ms=predicted_ms(result.architecture),
        argmax=argmax,
        confidence=confidence,
        upper_ms=max(each.latency_ms(result.architecture) for each in priced),
    )
