"""Plots of latency over width, in the terminal and as picture files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latbench.blocks import BlockSpec, with_width
from latbench.errors import InvalidValueError
from latbench.lazy import needing
from latbench.report.terminal import print_lines
from latbench.tables import LatencyTable
from latbench.tables.alignment import WidthClass
from latbench.units import format_ms

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 64  # width of a curve in the terminal; with its label it fits into 80 columns
_PICTURED = 12  # number of curves in a picture


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
    for shape in _chosen(table, count):
        lines += ["", str(shape)]
        rows = _lines(table, shape)
        top_ms = max(max(row.prices_ms) for row in rows)
        for row in rows:
            ends = f"{row.widths[0]} to {row.widths[-1]}"
            span = f"{format_ms(min(row.prices_ms))} to {format_ms(max(row.prices_ms))}"
            lines += [f"  {_name(row.group)}, widths {ends}: {span}", f"  {_bars(row, top_ms)}"]
    print_lines(lines)


def draw_curves(table: LatencyTable, path: Path) -> int:
    """Draw the price over width of some blocks into a picture file; return the number of curves.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InvalidValueError: The file name does not end in a picture format.
    """
    with needing("report"):
        from matplotlib.figure import Figure
    shapes = _chosen(table, _PICTURED)
    columns = min(3, max(1, len(shapes)))
    rows = -(-max(1, len(shapes)) // columns)
    figure = Figure(figsize=(5 * columns, 3 * rows), layout="constrained")
    figure.suptitle(f"{table.space} on {table.device.name} ({table.environment.cpu})")
    for index, shape in enumerate(shapes):
        axes = figure.add_subplot(rows, columns, index + 1)
        for line in _lines(table, shape):
            (drawn,) = axes.plot(line.widths, line.prices_ms, lw=0.8, label=_name(line.group))
            known = [i for i, measured in enumerate(line.known) if measured]
            axes.plot(
                [line.widths[i] for i in known],
                [line.prices_ms[i] for i in known],
                "o",
                ms=3,
                color=drawn.get_color(),
            )
        axes.set_title(str(shape), fontsize=7)
        axes.set_xlabel("width, channels (dots: measured)", fontsize=7)
        axes.set_ylabel("price, ms", fontsize=7)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6)
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:
        raise InvalidValueError(f"{path} is not a picture file: {error}") from error
    return len(shapes)


def _chosen(table: LatencyTable, count: int) -> list[BlockSpec]:
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


def _name(group: WidthClass) -> str:
    return f"multiples of {group.divisor}" if group.divisor > 1 else "other widths"
