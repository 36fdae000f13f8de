"""Check of a latency table against the present machine, and comparison of two tables."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from latbench.errors import (
    InvalidValueError,
    MismatchError,
    MissingExtraError,
    PluginError,
    RuntimeFailure,
    UnknownNameError,
)
from latbench.measure.lock import held
from latbench.profilers import profiler_of_table
from latbench.tables import LatencyTable, TableCheck, TableStore
from latbench.tables.comparison import TableDifference, compare

_NOT_HERE = (
    RuntimeFailure,
    MissingExtraError,
    InvalidValueError,
    MismatchError,
    UnknownNameError,
    PluginError,
)
"""The device cannot run here, cannot be reached, or only by a stranger's command; or its runtime is
of a package that is not installed here."""


def open_table(table: LatencyTable | str | Path) -> LatencyTable:
    """Return a latency table; open it if ``table`` is a path.

    Raises:
        InvalidFileError: The file is not a latency table, is damaged, or has no prices yet.
    """
    return table if isinstance(table, LatencyTable) else LatencyTable.open(table)


def check_table(table: LatencyTable | str | Path) -> TableCheck:
    """Find unreliable entries of a table.

    Entries are stale if the machine or a runtime's version has changed since, which is only looked
    at where the table's device can run here.

    Raises:
        InvalidFileError: The file is not a latency table.
        DeviceBusyError: The device is a GPU, and another process measures on it.
    """
    opened = open_table(table)
    if opened.origin is not None:
        return opened.check(None)
    try:
        profiler = profiler_of_table(opened.device)
        # a GPU is kept at work while its clock is read; the state of a CPU is read from files
        with held(profiler) if opened.device.device == "cuda" else nullcontext():
            return opened.check(profiler.environment())
    except _NOT_HERE:
        return opened.check(None)


def compare_tables(
    before: str | Path, after: str | Path, *, tolerance: float = 0.05
) -> TableDifference:
    """Compare what two profiling runs measured, block by block.

    Args:
        before: Path of the reference table.
        after: Path of the table to compare with it.
        tolerance: Largest relative change of a latency that does not matter.

    Raises:
        InvalidFileError: A file is not a latency table.
        MismatchError: The tables belong to different spaces or share no measured block.
    """
    with TableStore.open(Path(before)) as old, TableStore.open(Path(after)) as new:
        return compare(old, new, tolerance=tolerance)
