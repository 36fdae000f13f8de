"""Efficient widths: those that no wider width matches or beats in latency."""

from __future__ import annotations

from collections.abc import Mapping

from latbench.blocks import BlockSpec
from latbench.tables.table import LatencyTable


def efficient_widths(table: LatencyTable, blocks: Mapping[int, BlockSpec]) -> tuple[int, ...]:
    """The widths of a block without those that a wider width matches or beats in latency.

    A wider width beats another one if its interval lies completely below the other's interval.
    It matches the other one if the runtime rounds both up to the same number of channels.

    Args:
        table: Table that prices the block at all these widths.
        blocks: The block at each width.
    """
    found: list[int] = []
    steps: set[object] = set()
    least_high_ms = float("inf")  # upper end of the interval of the fastest wider width
    for width in sorted(blocks, reverse=True):
        spec = blocks[width]
        price, curve = table.price(spec), table.curves.curve(spec)
        step = curve.step(width) if curve is not None else width
        if price.low_ms <= least_high_ms and step not in steps:
            found.append(width)
        steps.add(step)
        least_high_ms = min(least_high_ms, price.high_ms)
    return tuple(reversed(found))
