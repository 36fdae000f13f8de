"""The file of a page: its formats, and what was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latbench.errors import UnknownNameError
from latbench.files import write_atomically
from latbench.report.page.document import Page
from latbench.result import Result

FORMS = ("html", "md")
"""Formats of a page: HTML with charts, or Markdown for a pull request."""


@dataclass(frozen=True, repr=False)
class WrittenReport(Result):
    """A report that was written.

    Attributes:
        path: File of the report.
        bytes: Its size.
        figures: Number of its charts. Markdown has their numbers instead.
    """

    path: Path
    bytes: int
    figures: int

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {"path": str(self.path), "bytes": self.bytes, "figures": self.figures}


def write_page(page: Page, path: Path, form: str = "html") -> WrittenReport:
    """Write a page; an existing file stays as it is if that fails.

    Args:
        page: The page.
        path: File to write.
        form: Format of the file, one of ``FORMS``.

    Raises:
        UnknownNameError: There is no such format.
        MissingExtraError: A package of the extra ``report`` is not installed.
        InvalidFileError: The file cannot be written.
    """
    if form not in FORMS:
        raise UnknownNameError("format of a report", form, FORMS)
    data = _writer(form)(page)
    write_atomically(path, data)
    return WrittenReport(path, len(data), len(list(page.figures)))


def _writer(form: str) -> Callable[[Page], bytes]:
    if form == "md":
        from latbench.report.page.markdown import to_markdown

        return to_markdown
    from latbench.report.page.html import to_html

    return to_html
