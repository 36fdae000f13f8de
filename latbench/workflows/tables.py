"""Latency tables checked against the present machine, and compared with each other."""

from __future__ import annotations

from pathlib import Path

from latbench.profilers import PROFILERS, make_profiler
from latbench.tables import LatencyTable, TableCheck, TableStore
from latbench.tables.comparison import TableDifference, compare


def open_table(table: LatencyTable | str | Path) -> LatencyTable:
    """A latency table, opened if it is a path.

    Raises:
        InvalidFileError: The file is no table, is damaged, or has no fitted prices yet.
    """
    return table if isinstance(table, LatencyTable) else LatencyTable.open(table)


def check_table(table: LatencyTable | str | Path) -> TableCheck:
    """Look for entries of a table that are not to be trusted.

    Entries are stale if the machine or a runtime's version has changed since, which is only looked
    at where the table's device can run here.

    Raises:
        InvalidFileError: The file is no table.
    """
    opened = open_table(table)
    if opened.origin is not None:
        return opened.check(None)
    unavailable = PROFILERS[opened.device.runtime].unavailable(opened.device)
    now = make_profiler(opened.device).environment() if unavailable is None else None
    return opened.check(now)


def compare_tables(
    before: str | Path, after: str | Path, *, tolerance: float = 0.05
) -> TableDifference:
    """Compare what two profiling runs measured, block by block.

    Args:
        before: Path of the reference table.
        after: Path of the table in question.
        tolerance: Relative change of a latency that does not matter.

    Raises:
        InvalidFileError: A file is no table.
        MismatchError: The tables are of different spaces, or have no measured block in common.
    """
    with TableStore.open(Path(before)) as old, TableStore.open(Path(after)) as new:
        return compare(old, new, tolerance=tolerance)
