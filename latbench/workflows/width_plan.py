"""The choice of widths that are measured; the latencies of all other widths are interpolated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latbench.blocks import BlockSpec, block_width, with_width
from latbench.cost import block_cost
from latbench.measure.samples import Interval
from latbench.tables.alignment import Alignment, WidthClass, discover_alignment
from latbench.tables.estimation import as_estimate
from latbench.tables.measured_widths import first_widths, refined_widths
from latbench.tables.width_curves import Curves

SCANNED_BLOCKS = 4  # number of blocks whose widths are scanned to find the runtime's classes
SCANNED_WIDTHS = 64  # widths per scanned block: two periods of the largest modulus
WIDTHS_A_CLASS = 5  # widths that are measured first, per class and curve
MEASURED_SHARE = 0.12  # largest share of all widths that is measured, whatever the time limit
HELD_OUT_SHARE = 0.08  # extra widths that only check the interpolation, per measured width
_REFINE_TOLERANCE = 0.03  # error of a width predicted by its neighbours, above which more are added
_SEED = 0
_LIKELY = Alignment((WidthClass(4, 16), WidthClass(1, 1)))  # assumed before the scan


@dataclass(frozen=True)
class FirstBlocks:
    """Blocks to measure after the scan.

    Attributes:
        measured: Blocks that are measured and priced.
        held_out: Blocks that are measured only to check the interpolation.
        alignment: Width classes of the runtime; None if no width is elastic.
    """

    measured: list[BlockSpec]
    held_out: list[BlockSpec]
    alignment: Alignment | None


class WidthPlan:
    """Chooses the blocks to measure: a scan, then the first widths, then more widths.

    It only chooses: it neither measures nor stores.

    Args:
        blocks: All blocks that need a price.
    """

    def __init__(self, blocks: Sequence[BlockSpec]) -> None:
        self.rigid, self.widths = _by_shape(blocks)

    def scan(self) -> list[BlockSpec]:
        """Blocks from which the width classes are found: consecutive widths of narrow blocks.

        Narrow blocks show a step best: 16 channels are a large part of a narrow block, but a small
        part of a wide one.
        """
        curves = sorted(
            self.widths.items(),
            key=lambda item: (len(item[1]) < SCANNED_WIDTHS, item[1][0], _macs(item[0], item[1])),
        )
        half = curves[: max(SCANNED_BLOCKS, len(curves) // 2)]
        picked = np.unique(np.linspace(0, len(half) - 1, SCANNED_BLOCKS).round().astype(int))
        return [
            with_width(half[i][0], width)
            for i in (picked if half else [])
            for width in half[i][1][:SCANNED_WIDTHS]
        ]

    def first(
        self, scanned_ms: Mapping[BlockSpec, float], registered: Collection[BlockSpec]
    ) -> FirstBlocks:
        """Find the classes from the scan, then choose the first widths and held-out widths.

        If no width is elastic, there are no classes, and every block is measured.

        Args:
            scanned_ms: Measured latency of every scanned block.
            registered: Blocks in the table; none of them is held out.
        """
        if not self.widths:
            return FirstBlocks(self.rigid, [], None)
        by_curve: dict[BlockSpec, dict[int, float]] = defaultdict(dict)
        for spec, latency_ms in scanned_ms.items():
            width = block_width(spec)
            if width is not None:
                by_curve[with_width(spec, 0)][width] = latency_ms
        alignment = discover_alignment(list(by_curve.values()))
        first = _first_blocks(self.widths, alignment)
        known = {*registered, *self.rigid, *first}
        free = [
            spec
            for shape, widths in self.widths.items()
            for width in widths
            if (spec := with_width(shape, width)) not in known
        ]
        count = min(len(free), round(HELD_OUT_SHARE * len(first)))
        drawn = np.random.default_rng(_SEED).choice(len(free), size=count, replace=False)
        return FirstBlocks([*self.rigid, *first], [free[i] for i in drawn], alignment)

    def more(
        self, hot: Mapping[BlockSpec, Interval], alignment: Alignment, *, registered: int
    ) -> list[BlockSpec]:
        """Choose more widths where the neighbours of a measured width predict it badly.

        Args:
            hot: Hot latencies measured so far.
            alignment: Width classes of the runtime.
            registered: Number of blocks in the table, held-out ones excluded.
        """
        curves = Curves(
            alignment,
            {spec: as_estimate(interval, None, visits=0) for spec, interval in hot.items()},
        )
        wanted = sorted(
            (
                (error, shape, width)
                for shape, widths in self.widths.items()
                if (curve := curves.curve(with_width(shape, widths[0]))) is not None
                for error, width in refined_widths(
                    widths, curve, alignment, tolerance=_REFINE_TOLERANCE
                )
            ),
            key=lambda found: -found[0],
        )
        room = round(MEASURED_SHARE * sum(map(len, self.widths.values()))) - registered
        return [with_width(shape, width) for _, shape, width in wanted[: max(0, room)]]


def _macs(shape: BlockSpec, widths: Sequence[int]) -> int:
    return block_cost(with_width(shape, widths[0])).macs


def _by_shape(
    blocks: Sequence[BlockSpec],
) -> tuple[list[BlockSpec], dict[BlockSpec, list[int]]]:
    """Split blocks into those without elastic width and those with, grouped by shape.

    If a shape has at most ``WIDTHS_A_CLASS`` widths, they come from the operations of a space
    without elastic widths (such as k3_e3 and k3_e6), and all of them are measured.

    Returns:
        Blocks that are all measured, and the ascending widths of every other shape.
    """
    rigid = []
    grouped: dict[BlockSpec, list[int]] = defaultdict(list)
    for spec in blocks:
        width = block_width(spec)
        if width is None:
            rigid.append(spec)
        else:
            grouped[with_width(spec, 0)].append(width)
    few = [shape for shape, found in grouped.items() if len(found) <= WIDTHS_A_CLASS]
    rigid += [with_width(shape, width) for shape in few for width in grouped.pop(shape)]
    return rigid, {shape: sorted(found) for shape, found in grouped.items()}


def _first_blocks(
    widths_of: Mapping[BlockSpec, Sequence[int]], alignment: Alignment
) -> list[BlockSpec]:
    return [
        with_width(shape, width)
        for shape, widths in widths_of.items()
        for width in first_widths(widths, alignment, count=WIDTHS_A_CLASS)
    ]


def likely_blocks(blocks: Sequence[BlockSpec]) -> list[BlockSpec]:
    """Approximate set of blocks to measure, before the classes of the runtime are known."""
    rigid, widths = _by_shape(blocks)
    first = _first_blocks(widths, _LIKELY)
    chosen = {*rigid, *first}
    rest = [spec for spec in blocks if spec not in chosen]
    scanned = SCANNED_BLOCKS * SCANNED_WIDTHS if widths else 0
    extra = min(len(rest), round(HELD_OUT_SHARE * len(first)) + scanned)
    return rigid + first + rest[:: max(1, len(rest) // max(extra, 1))][:extra]
