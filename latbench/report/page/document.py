"""The contents of a report page: sections with texts, tables and figures, without a file format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["", "good", "bad", "open", "quiet"]
"""How a value is marked: not at all, as a success, a failure, undecided, or as a remark."""

Spec = dict[str, Any]
"""A chart as a Vega-Lite specification."""


@dataclass(frozen=True)
class Value:
    """One number of the answer, with its label.

    Attributes:
        label: Meaning of the value.
        text: The value with its unit.
        detail: Interval or remark; empty for none.
        tone: How the value is marked.
    """

    label: str
    text: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Grid:
    """A table of text cells. All columns after the first ``labels`` ones are numbers.

    Attributes:
        headers: Headers of the columns, with units.
        rows: Cells, one tuple a row.
        labels: Number of columns at the left that hold text.
        caption: What the table shows; empty for the table of a figure.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart with its data as a table.

    Attributes:
        title: Title, a phrase.
        caption: What to see in the chart, in sentences.
        spec: The chart.
        data: The numbers of the chart.
        wide: Whether the chart needs the whole width of the page.
    """

    title: str
    caption: str
    spec: Spec
    data: Grid
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page. Parts that are empty are left out.

    Attributes:
        title: Heading.
        answers: Rows of values, shown in large type; each row may begin with a name.
        lines: Paragraphs.
        tables: Tables that are always shown.
        figures: Charts.
        commands: Command lines to copy.
        files: Names and texts of files that the commands need; folded away.
    """

    title: str
    answers: tuple[tuple[Value, ...], ...] = ()
    lines: tuple[str, ...] = ()
    tables: tuple[Grid, ...] = ()
    figures: tuple[Figure, ...] = ()
    commands: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        parts = (self.answers, self.lines, self.tables, self.figures, self.commands, self.files)
        return any(parts)


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: What the report is about.
        subtitle: Device, machine and date.
        notes: What a reader must know first, such as that a run is not finished.
        sections: Parts in the order of reading.
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> Iterator[Figure]:
        """All figures in the order of reading."""
        return (figure for section in self.sections for figure in section.figures)
