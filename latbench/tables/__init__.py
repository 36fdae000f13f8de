"""Latency tables: the file, the fitted price, and what reads them."""

from __future__ import annotations

from latbench.tables.store import Estimate, SpaceLabel, StoredFit, TableStore
from latbench.tables.table import LatencyTable, Prediction, TableCheck

__all__ = [
    "Estimate",
    "LatencyTable",
    "Prediction",
    "SpaceLabel",
    "StoredFit",
    "TableCheck",
    "TableStore",
]
