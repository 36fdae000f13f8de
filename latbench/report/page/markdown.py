"""A page as Markdown, as pull requests show it: texts and tables, the charts' numbers folded away.

Texts of a page may come from files of strangers, so signs that Markdown or HTML reads are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from latbench.report.page.document import Grid, Page, Section, Value
from latbench.report.streams import printable

_MOST_ROWS = 40  # rows of a chart's table: a comment has little room
_SPECIAL = re.compile(r"([\\\\`*_{}\[\]|~@])")
_BEGINNINGS = ("#", "+", "-")  # signs that make a line a heading or a list
_TONES = {"good": "✓ ", "bad": "✗ ", "open": "? ", "quiet": "", "": ""}


def to_markdown(page: Page) -> bytes:
    """The file of a page."""
    lines = [f"# {_plain(page.title)}", "", _line(page.subtitle), ""]
    for note in page.notes:
        lines += [f"> {_plain(note)}", ""]
    for section in page.sections:
        if section:
            lines += _section(section)
    text = "\n".join(lines).rstrip("\n") + "\n"
    return text.encode("utf-8", "replace")


def _section(section: Section) -> Iterator[str]:
    yield from (f"## {_plain(section.title)}", "")
    if section.answers:
        yield from _answers(section.answers)
    for line in section.lines:
        yield from (_line(line), "")
    for table in section.tables:
        if table.caption:
            yield from (_line(table.caption), "")
        yield from _grid(table, len(table.rows))
    for command in section.commands:
        yield from _code(command, "sh")
    for name, text in section.files:
        yield from (f"<details><summary>{_html(name)}</summary>", "")
        yield from (*_code(text, ""), "</details>", "")
    for figure in section.figures:
        title = _html(figure.title)
        yield from (f"<details><summary>{title}</summary>", "", _line(figure.caption), "")
        yield from _grid(figure.data, _MOST_ROWS)
        yield from ("</details>", "")


def _code(text: str, language: str) -> Iterator[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    yield from (f"{fence}{language}", text, fence, "")


def _answers(answers: Sequence[Sequence[Value]]) -> Iterator[str]:
    """One table for all rows of values; a value that a row lacks is an empty cell."""
    labels = list(dict.fromkeys(value.label for row in answers for value in row))
    rows = []
    for row in answers:
        known = {value.label: value for value in row}
        rows.append(tuple(_value(known[label]) if label in known else "" for label in labels))
    yield from _grid(Grid(tuple(labels), tuple(rows), labels=len(labels)), len(rows))


def _value(value: Value) -> str:
    text = f"{_TONES[value.tone]}{value.text}"
    return f"{text} ({value.detail})" if value.detail else text


def _grid(table: Grid, most: int) -> Iterator[str]:
    yield _row(table.headers)
    yield _row(
        ["---" if column < table.labels else "---:" for column in range(len(table.headers))],
        plain=False,
    )
    yield from map(_row, table.rows[:most])
    yield ""
    if len(table.rows) > most:
        yield from (f"and {len(table.rows) - most} more rows", "")


def _row(cells: Sequence[str], *, plain: bool = True) -> str:
    return f"| {' | '.join(_plain(cell) if plain else cell for cell in cells)} |"


def _line(text: str) -> str:
    """A paragraph of one line."""
    plain = _plain(text)
    return f"\\{plain}" if plain.startswith(_BEGINNINGS) else plain


def _plain(text: str) -> str:
    """A text in one line whose signs have no other meaning."""
    return _SPECIAL.sub(r"\\\1", _html(text))


def _html(text: str) -> str:
    """A text in one line for HTML, in which Markdown is not read."""
    line = printable(" ".join(text.split()))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
