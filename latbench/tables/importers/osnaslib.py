"""The lookup tables of OSNASLib: eric8607242/OSNASLib, ``model/base_lookup_table.py``.

One JSON object: under ``latency``, ``flops`` and ``param`` a row a layer with a number a candidate
block, and under ``base_latency`` and so on what first and last stages cost together; the first
versions had no bases. Latencies are seconds of one cold call, an image.

An entry is known by its place alone: the file names neither its space nor the input size, and no
shapes. So all entries are unmapped here, and keep their place as their key, ``latency[3][2]`` for
candidate 2 of layer 3; who knows the space can give them their blocks. For the space of SGNAS a
row is a sub-block, and its last candidate, none, takes 0 s by definition.
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
        raise ForeignFormatError("it is no JSON, or truncated") from error
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
