"""Base class of results, with conversion to JSON values, to one line and to HTML tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from html import escape
from typing import Any, cast

_SHOWN_ROWS = 50  # rows of a list in HTML: more than a screen, fewer than all blocks of a table
_SHOWN_CHARACTERS = 72  # characters of a list in the one-line form


class Result:
    """Base class of all results, which are frozen dataclasses made with ``repr=False``."""

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values, as ``--json`` prints it."""
        return asdict(cast(Any, self))

    def __repr__(self) -> str:
        shown = (f"{f.name}={_in_line(getattr(self, f.name))}" for f in fields(cast(Any, self)))
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        """HTML for notebooks: single values, then a table for every list of rows."""
        plain = self.as_dict()
        single = [(name, _cell(value)) for name, value in plain.items() if _is_single(value)]
        parts = [_html_table((), single)] if single else []
        for name, value in plain.items():
            if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
                parts.append(f"<p>{escape(name)}</p>{_html_rows(value)}")
        return "\n".join(parts)


def _in_line(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = f"[{', '.join(map(_in_line, value))}]"
        return shown if len(shown) <= _SHOWN_CHARACTERS else f"[{len(value)} items]"
    return repr(value)


def _is_single(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _html_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """HTML table of rows, with the columns that hold single values."""
    columns = [name for name in rows[0] if all(_is_single(row.get(name)) for row in rows)]
    shown = [[_cell(row.get(name)) for name in columns] for row in rows[:_SHOWN_ROWS]]
    more = len(rows) - len(shown)
    return _html_table(columns, shown) + (f"<p>and {more} more</p>" if more else "")


def _html_table(headers: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"
