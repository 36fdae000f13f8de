"""Latency tables: the file, the fitted price, and what reads them."""

from __future__ import annotations

from latbench.tables.records import (
    Estimate,
    Origin,
    Prediction,
    Price,
    SpaceLabel,
    StoredFit,
    TableCheck,
)
from latbench.tables.store import TableStore
from latbench.tables.table import LatencyTable

__all__ = [
    "Estimate",
    "LatencyTable",
    "Origin",
    "Prediction",
    "Price",
    "SpaceLabel",
    "StoredFit",
    "TableCheck",
    "TableStore",
]
