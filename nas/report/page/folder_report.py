"""The report that a search or a demo leaves in its folder when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latbench.errors import LatbenchError, in_one_line
from latbench.report.streams import say
from latbench.report.terminal import print_lines
from nas.report.page.report import write_report

REPORT = "report.html"


def folder_report(folder: Path, tables: Sequence[Path] = ()) -> str | None:
    """Write the report of a run into its folder; a failure is one line on standard error.

    Args:
        folder: Folder of a search or a demo.
        tables: Latency tables of the search.

    Returns:
        Path of the report; None if it was not written, for example because the extra ``report``
        is not installed.
    """
    try:
        return str(write_report([folder, *tables], folder / REPORT).path)
    except (LatbenchError, OSError) as error:
        say(f"no report: {in_one_line(error)}")
        return None


def show_report(report: str | None) -> None:
    """Print where the report is, if it was written."""
    if report is not None:
        print_lines([f"report: {report}"])
