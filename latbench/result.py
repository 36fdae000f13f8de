"""Base class of results: as JSON values, in one line, as text and as HTML tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeGuard, cast

import msgspec

_SHOWN_ROWS = 50  # rows of a list in HTML: more than a screen, fewer than all blocks of a table
_SHOWN_CHARACTERS = 72  # characters of a list in the one-line form


class Result:
    """Base class of all results, which are frozen dataclasses made with ``repr=False``."""

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values, as ``--json`` prints it."""
        plain: dict[str, Any] = msgspec.to_builtins(self, enc_hook=_plain)
        return plain

    def __repr__(self) -> str:
        shown = (f"{f.name}={_in_line(getattr(self, f.name))}" for f in fields(cast(Any, self)))
        return f"{type(self).__name__}({', '.join(shown)})"

    def __str__(self) -> str:
        """Single values, then a table for every list of rows."""
        single, tables = self._shown()
        parts = [_text_table(single)] if single else []
        for name, columns, rows, more in tables:
            rest = [(f"and {more} more",)] if more else []
            parts.append(f"{name}\n{_text_table([columns, *rows, *rest])}")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        """HTML for notebooks: single values, then a table for every list of rows."""
        single, tables = self._shown()
        parts = [_html_table((), single)] if single else []
        for name, columns, rows, more in tables:
            rest = f"<p>and {more} more</p>" if more else ""
            parts.append(f"<p>{escape(name)}</p>{_html_table(columns, rows)}{rest}")
        return "\n".join(parts)

    def _shown(self) -> tuple[list[tuple[str, str]], list[_Table]]:
        """Single values by name; then each list of rows as a table."""
        plain = self.as_dict()
        single = [(name, _cell(value)) for name, value in plain.items() if _is_single(value)]
        return single, [_table(name, value) for name, value in plain.items() if _is_rows(value)]


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} is no JSON value")


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


def _is_rows(value: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)


_Table = tuple[str, list[str], list[list[str]], int]
"""Name, columns that hold single values, the first rows, and the number of the others."""


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> _Table:
    columns = [key for key in rows[0] if all(_is_single(row.get(key)) for row in rows)]
    shown = [[_cell(row.get(key)) for key in columns] for row in rows[:_SHOWN_ROWS]]
    return name, columns, shown, len(rows) - len(shown)


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows below each other, columns two spaces apart."""
    columns = zip_longest(*rows, fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _html_table(headers: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"
