"""Reports of latency tables."""

from __future__ import annotations

from pathlib import Path

from latbench.report.page.page_file import WrittenReport, write_page
from latbench.report.page.table_sections import ReportedTable, table_page
from latbench.tables import LatencyTable
from latbench.workflows.table_checks import open_table


def write_report(
    table: LatencyTable | str | Path, output: str | Path, *, form: str = "html"
) -> WrittenReport:
    """Write a report about a latency table: one page with figures, which loads nothing.

    Args:
        table: The table, or its path.
        output: File to write; an existing file stays as it is if that fails.
        form: ``html``, or ``md`` for a pull request.

    Raises:
        InvalidFileError: The table cannot be read, or the file cannot be written.
        UnknownNameError: There is no such format.
        MissingExtraError: A package of the extra ``report`` is not installed.
    """
    page = table_page(ReportedTable.of(open_table(table)))
    return write_page(page, Path(output), form)
