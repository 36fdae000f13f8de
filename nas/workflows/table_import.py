"""Import of other programs' latency tables."""

from __future__ import annotations

from pathlib import Path

from latbench.blocks import BlockSpec
from latbench.files import utf8
from latbench.tables import LatencyTable, Origin, foreign
from latbench.tables.importers import Unit, read_foreign_table
from nas.latency.priced_space import labelled_space


def import_table(
    file: str | Path,
    output: str | Path,
    *,
    file_format: str,
    device: str,
    unit: Unit | None = None,
) -> LatencyTable:
    """Convert another program's latency table; count its defects instead of hiding them.

    Prices are not changed. Defects of the file are recorded in the table's ``origin``, and
    ``latbench.check_table`` counts them.

    Args:
        file: The other program's table. Pickles are read without running their code.
        output: Path of the latency table; it must not exist yet.
        file_format: ``tfnas``, ``ofa``, ``osnaslib`` or ``hardcore``.
        device: Name of the device; any text.
        unit: Unit of the file's latencies, ``ms`` or ``s``; None uses the format's unit.

    Raises:
        UnknownNameError: There is no such format.
        InvalidFileError: The file does not have the format or would run code, or ``output`` exists.
    """
    source = Path(file)
    read = read_foreign_table(source, file_format, unit=unit)
    included: tuple[BlockSpec, ...] = ()
    if read.space is not None:
        space = labelled_space(read.space)
        included = (*space.stem, *space.head)
    origin = Origin(
        file_format,
        utf8(source.name),
        read.duplicates,
        read.unmapped,
        read.not_finite,
        read.defects,
        unit,
    )
    path = Path(output)
    foreign.import_table(read, path, origin=origin, device=utf8(device), included=included)
    return LatencyTable.open(path)
