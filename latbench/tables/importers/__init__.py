"""Readers of foreign latency tables. A new format needs one file and one line in ``IMPORTERS``.

A foreign file may be malicious. It is read as data, never executed, and limited in size.
"""

from __future__ import annotations

from pathlib import Path

from latbench.errors import InvalidFileError
from latbench.files import read_bytes
from latbench.registry import Registry
from latbench.tables.importers.base import (
    MS_PER,
    ForeignEntry,
    ForeignFormatError,
    ForeignTable,
    Importer,
    Unit,
)

IMPORTERS: Registry[Importer] = Registry(
    "table format",
    {
        "tfnas": "latbench.tables.importers.tfnas:IMPORTER",
        "ofa": "latbench.tables.importers.ofa:IMPORTER",
        "osnaslib": "latbench.tables.importers.osnaslib:IMPORTER",
        "hardcore": "latbench.tables.importers.hardcore:IMPORTER",
    },
    group="latbench.importers",
)

# twenty times the largest published table, or that table in the most wordy form: a pickle of
# protocol 0 with numpy's scalars as keys and values
MAX_FILE_BYTES = 16 << 20


def read_foreign_table(path: Path, kind: str, *, unit: Unit | None = None) -> ForeignTable:
    """Read another program's latency table.

    Args:
        path: The file.
        kind: Its format, a name in ``IMPORTERS``.
        unit: Unit of the file's latencies; None for the one in which the format's own tools
            write: ms for ``tfnas`` and ``ofa``, s for ``osnaslib`` and ``hardcore``.

    Raises:
        UnknownNameError: No such format exists.
        InvalidFileError: The file is missing, not of the format, truncated, too large, or would
            run code.
    """
    importer = IMPORTERS[kind]
    raw = read_bytes(path, what=f"a latency table in format {kind}", limit=MAX_FILE_BYTES)
    try:
        return importer.parse(raw, MS_PER[unit or importer.unit])
    except ForeignFormatError as error:
        raise InvalidFileError(
            f"{path} cannot be read in format {kind}: {error}; expected {importer.expects} "
            f"(formats: {', '.join(IMPORTERS)})"
        ) from error


__all__ = [
    "IMPORTERS",
    "MAX_FILE_BYTES",
    "ForeignEntry",
    "ForeignTable",
    "Importer",
    "Unit",
    "read_foreign_table",
]
