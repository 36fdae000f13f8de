"""Latency over width of some blocks of a table: which are shown, and their plot in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latbench.blocks import BlockSpec, with_width
from latbench.report.terminal import print_lines
from latbench.tables import LatencyTable
from latbench.tables.alignment import WidthClass
from latbench.units import format_span_ms

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 64  # width of a curve in the terminal; with its label it fits into 80 columns


@dataclass(frozen=True)
class _Line:
    """Prices of one width class of a block; ``known`` marks measured widths."""

    group: WidthClass
    widths: list[int]
    prices_ms: list[float]
    known: list[bool]


def show_curves(table: LatencyTable, *, count: int) -> None:
    """Draw the price over width of some blocks, one row of bars for every width class."""
    lines: list[str] = []
    for shape in chosen_curves(table, count):
        lines += ["", str(shape)]
        rows = _lines(table, shape)
        top_ms = max(max(row.prices_ms) for row in rows)
        for row in rows:
            ends = f"{row.widths[0]} to {row.widths[-1]}"
            span = format_span_ms(min(row.prices_ms), max(row.prices_ms))
            lines += [
                f"  {width_class_name(row.group)}, widths {ends}: {span}",
                f"  {_bars(row, top_ms)}",
            ]
    print_lines(lines)


def chosen_curves(table: LatencyTable, count: int) -> list[BlockSpec]:
    """Choose curves that are evenly spread from the narrowest to the widest block."""
    shapes = sorted(
        (s for s, known in table.curves.measured.items() if len(known) > 1),
        key=lambda shape: max(table.curves.measured[shape]),
    )
    picked = np.unique(np.linspace(0, len(shapes) - 1, count).round().astype(int))
    return [shapes[i] for i in picked] if shapes else []


def _lines(table: LatencyTable, shape: BlockSpec) -> list[_Line]:
    known, alignment = table.curves.measured[shape], table.curves.alignment
    assert alignment is not None  # a curve exists only with an alignment
    lines = {group: _Line(group, [], [], []) for group in alignment.classes}
    for width in range(min(known), max(known) + 1):
        spec = with_width(shape, width)
        if spec in table:
            line = lines[alignment.class_of(width)]
            line.widths.append(width)
            line.prices_ms.append(table.price_ms(spec))
            line.known.append(width in known)
    return [line for line in lines.values() if line.widths]


def _bars(line: _Line, top_ms: float) -> str:
    prices: Sequence[float] = line.prices_ms
    count = min(_COLUMNS, len(prices))
    picked = np.linspace(0, len(prices) - 1, count).round().astype(int)
    unit_ms = top_ms / (len(_BARS) - 1)
    levels = [prices[i] / unit_ms if unit_ms > 0 else 0.0 for i in picked]
    return "".join(_BARS[max(0, min(len(_BARS) - 1, round(level)))] for level in levels)


def width_class_name(group: WidthClass) -> str:
    """Name of a class of widths, such as ``multiples of 4``."""
    return f"multiples of {group.divisor}" if group.divisor > 1 else "other widths"
