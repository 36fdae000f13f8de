"""Latency tables: the file, the fitted price, and what reads them."""

from __future__ import annotations

from latbench.tables.store import Estimate, Origin, SpaceLabel, StoredFit, TableStore
from latbench.tables.table import LatencyTable, Prediction, Price, TableCheck

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
