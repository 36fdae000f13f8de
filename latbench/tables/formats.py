"""Export of a latency table as JSON, CSV, Parquet or a pandas data frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from latbench.blocks import block_key, block_width
from latbench.errors import UnknownNameError
from latbench.files import write_atomically
from latbench.lazy import needing
from latbench.tables.table import LatencyTable

COLUMNS = (
    "block",
    "width",
    "price_ms",
    "low_ms",
    "high_ms",
    "source",
    "hot_ms",
    "hot_low_ms",
    "hot_high_ms",
    "cold_ms",
    "cold_low_ms",
    "cold_high_ms",
    "visits",
    "noisy",
)


def entries(table: LatencyTable, *, interpolated: bool = False) -> list[dict[str, object]]:
    """One row for every priced block, with the columns ``COLUMNS``.

    Args:
        table: The table.
        interpolated: Whether to add rows for widths between measured ones. Their measured columns
            are None.
    """
    specs = list(table.estimates)
    if interpolated:
        specs += [spec for spec in table.curves.between_specs() if spec not in table.estimates]
    rows = []
    for spec in specs:
        price, estimate = table.price(spec), table.estimates.get(spec)
        row: dict[str, object] = {
            "block": block_key(spec),
            "width": block_width(spec),
            "price_ms": price.price_ms,
            "low_ms": price.low_ms,
            "high_ms": price.high_ms,
            "source": price.source,
        }
        row.update({name: getattr(estimate, name, None) for name in COLUMNS[6:]})
        row["noisy"] = price.noisy
        rows.append(row)
    return rows


def describe(table: LatencyTable) -> dict[str, object]:
    """Description of a table as plain JSON values."""
    return {
        "device": msgspec.to_builtins(table.device),
        "space": msgspec.to_builtins(table.space),
        "environment": msgspec.to_builtins(table.environment),
        "conditions": msgspec.to_builtins(table.conditions),
        "alignment": msgspec.to_builtins(table.curves.alignment),
        "fit": msgspec.to_builtins(table.fit),
    }


def to_json(table: LatencyTable) -> bytes:
    """The table with its device, environment and price model as one JSON object."""
    plain = describe(table) | {"entries": entries(table, interpolated=True)}
    return msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n"


def to_csv(table: LatencyTable) -> bytes:
    """The entries as CSV; latencies in ms."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries(table, interpolated=True))
    return text.getvalue().encode()


def to_parquet(table: LatencyTable) -> bytes:
    """The entries as Parquet, latencies in ms; the metadata describes the table as JSON.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    with needing("report"):
        import pyarrow
        import pyarrow.parquet
    columns = pyarrow.Table.from_pylist(entries(table, interpolated=True))
    about = msgspec.json.encode(describe(table))
    raw = io.BytesIO()
    pyarrow.parquet.write_table(columns.replace_schema_metadata({"latbench": about}), raw)
    return raw.getvalue()


FORMATS: dict[str, Callable[[LatencyTable], bytes]] = {
    "json": to_json,
    "csv": to_csv,
    "parquet": to_parquet,
}


def write_table(table: LatencyTable, path: Path, kind: str) -> None:
    """Write a table in a format of ``FORMATS``.

    Raises:
        UnknownNameError: No such format.
        MissingExtraError: The format needs a package that is not installed.
        InvalidFileError: The file cannot be written.
    """
    if kind not in FORMATS:
        raise UnknownNameError("format", kind, FORMATS)
    write_atomically(path, FORMATS[kind](table))


def to_dataframe(table: LatencyTable, *, interpolated: bool = False) -> Any:
    """The entries as a pandas data frame; latencies in ms.

    Args:
        table: The table.
        interpolated: Whether to add rows for widths between measured ones.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    with needing("report"):
        import pandas

    return pandas.DataFrame(entries(table, interpolated=interpolated), columns=list(COLUMNS))
