"""The lookup tables of OSNASLib: eric8607242/OSNASLib, ``model/base_lookup_table.py``.

The file is one JSON object. ``latency``, ``flops`` and ``param`` have one row for every layer, with
one number for every candidate block. ``base_latency`` and similar fields have the summed cost of
the first and last stages; early versions do not have them. Latencies are in seconds, for one cold
call with one image.

An entry is identified only by its position. The file names no space, no input size and no shapes.
No entry is therefore mapped to a block spec. The key of an entry is its position, such as
``latency[3][2]`` for candidate 2 of layer 3. In the space of SGNAS, a row is a sub-block, and its
last candidate, which skips the sub-block, takes 0 s by definition.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from latbench.tables.importers.base import (
    ForeignEntry,
    ForeignFormatError,
    ForeignTable,
    Importer,
    Pairs,
    make_table,
    milliseconds,
    read_text,
    shown,
)

_ROWS, _BASE = "latency", "base_latency"


def parse(raw: bytes, ms_per_unit: float) -> ForeignTable:
    """The table of a file's bytes."""
    try:
        # the library writes with this module, which alone reads back its NaN and Infinity
        content = json.loads(read_text(raw), object_pairs_hook=Pairs)
    except (ValueError, RecursionError) as error:
        raise ForeignFormatError("it is not JSON, or truncated") from error
    if not isinstance(content, Pairs):
        raise ForeignFormatError(f"it holds {shown(content)}")
    rows = [value for key, value in content if key == _ROWS]
    if not rows:
        raise ForeignFormatError("it has no list called latency")
    base = [milliseconds(v, ms_per_unit, key=_BASE) for key, v in content if key == _BASE]
    entries = (entry for matrix in rows for entry in _entries(matrix, ms_per_unit))
    return make_table(entries, base=base)


def _entries(matrix: object, ms_per_unit: float) -> Iterator[ForeignEntry]:
    for layer, row in enumerate(_sequence(matrix, _ROWS)):
        for candidate, latency in enumerate(_sequence(row, f"{_ROWS}[{layer}]")):
            key = f"{_ROWS}[{layer}][{candidate}]"
            yield ForeignEntry(key, None, None, milliseconds(latency, ms_per_unit, key=key))


def _sequence(value: object, place: str) -> list[object]:
    if not isinstance(value, list) or isinstance(value, Pairs):
        raise ForeignFormatError(f"{place} holds {shown(value)}, not a list")
    return value


IMPORTER = Importer(
    expects="the JSON of rows of seconds that OSNASLib writes", unit="s", parse=parse
)
