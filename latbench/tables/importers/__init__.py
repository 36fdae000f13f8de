"""Readers of foreign latency tables. A new format is one file here and one line in ``IMPORTERS``.

Files are foreign, perhaps hostile: they are read as data, never run, and limited in size.
"""

from __future__ import annotations

from pathlib import Path

from latbench.errors import InvalidFileError
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

MAX_FILE_BYTES = 8 << 20  # twenty times the largest published table; anything larger is foreign


def read_foreign_table(path: Path, kind: str, *, unit: Unit | None = None) -> ForeignTable:
    """Read another program's latency table.

    Args:
        path: The file.
        kind: Its format, a name in ``IMPORTERS``.
        unit: Unit of the file's latencies; None for the one in which the format's own tools
            write: ms for ``tfnas`` and ``ofa``, s for ``osnaslib`` and ``hardcore``.

    Raises:
        UnknownNameError: No such format.
        InvalidFileError: The file is missing, not of the format, truncated, too large, or would
            run code.
    """
    importer = IMPORTERS[kind]
    raw = _read(path)
    try:
        return importer.parse(raw, MS_PER[unit or importer.unit])
    except ForeignFormatError as error:
        raise InvalidFileError(
            f"{path} cannot be read in format {kind}: {error}; expected {importer.expects} "
            f"(formats: {', '.join(IMPORTERS)})"
        ) from error


def _read(path: Path) -> bytes:
    if not path.is_file():  # nor a directory, a pipe or a device, which may never end
        raise InvalidFileError(f"no file at {path}: name the latency table to import")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidFileError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidFileError(
            f"{path} is too large to be a latency table: at most {MAX_FILE_BYTES >> 20} MiB "
            "are read, and published ones take half a MiB"
        )
    return raw


__all__ = [
    "IMPORTERS",
    "MAX_FILE_BYTES",
    "ForeignEntry",
    "ForeignTable",
    "Importer",
    "Unit",
    "read_foreign_table",
]
