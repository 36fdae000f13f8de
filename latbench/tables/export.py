"""A latency table as JSON or CSV, for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import msgspec

from latbench.blocks import block_key, block_width
from latbench.tables.table import LatencyTable

COLUMNS = (
    "block",
    "width",
    "price_ms",
    "hot_ms",
    "hot_low_ms",
    "hot_high_ms",
    "cold_ms",
    "cold_low_ms",
    "cold_high_ms",
    "visits",
    "noisy",
)


def entries(table: LatencyTable) -> list[dict[str, object]]:
    """One row a priced block, with the columns ``COLUMNS``."""
    rows = []
    for spec, estimate in table.estimates.items():
        row: dict[str, object] = {
            "block": block_key(spec),
            "width": block_width(spec),
            "price_ms": table.price_ms(spec),
        }
        row.update({name: getattr(estimate, name) for name in COLUMNS[3:]})
        rows.append(row)
    return rows


def describe(table: LatencyTable) -> dict[str, object]:
    """What a table is of, as plain JSON values."""
    return {
        "device": msgspec.to_builtins(table.device),
        "space": msgspec.to_builtins(table.space),
        "environment": msgspec.to_builtins(table.environment),
        "price": msgspec.to_builtins(table.price_model),
        "floor": table.fit.floor,
        "noisy_sweep": table.fit.noisy,
    }


def to_json(table: LatencyTable) -> str:
    """The table with its device, environment and price model as one JSON object."""
    plain = describe(table) | {"entries": entries(table)}
    return msgspec.json.format(msgspec.json.encode(plain), indent=1).decode() + "\n"


def to_csv(table: LatencyTable) -> str:
    """The entries as CSV; latencies in ms."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries(table))
    return text.getvalue()


FORMATS: dict[str, Callable[[LatencyTable], str]] = {"json": to_json, "csv": to_csv}
