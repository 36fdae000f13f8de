"""The choice of widths that are measured; the latencies of all other widths are interpolated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from latbench.blocks import BlockSpec, block_width, with_width
from latbench.cost import block_cost
from latbench.measure.samples import Samples
from latbench.tables import TableStore
from latbench.tables.alignment import (
    Alignment,
    WidthClass,
    discover_alignment,
    first_widths,
    refined_widths,
)
from latbench.tables.estimation import as_estimate
from latbench.tables.width_curves import Curves

SCANNED_BLOCKS = 4  # number of blocks whose widths are scanned to find the runtime's classes
SCANNED_WIDTHS = 64  # widths per scanned block: two periods of the largest modulus
WIDTHS_A_CLASS = 5  # widths that are measured first, per class and curve
MEASURED_SHARE = 0.12  # largest share of all widths that is measured, whatever the time limit
HELD_OUT_SHARE = 0.08  # extra widths that only check the interpolation, per measured width
_REFINE_TOLERANCE = 0.03  # error of a width predicted by its neighbours, above which more are added
_SEED = 0
_LIKELY = Alignment((WidthClass(4, 16), WidthClass(1, 1)))  # assumed before the scan


class WidthPlan:
    """Chooses the blocks to measure: a scan, then the first widths, then more widths.

    Args:
        store: Table in which the chosen blocks are registered.
        blocks: All blocks that need a price.
    """

    def __init__(self, store: TableStore, blocks: Sequence[BlockSpec]) -> None:
        self.store = store
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

    def add_widths(self, scanned: Sequence[BlockSpec], samples: Samples, quantile: float) -> None:
        """Find the classes from the scan, then register the first widths and held-out widths.

        If no width is elastic, there are no classes, and every block is measured.
        """
        if not self.widths:
            self.store.add_blocks(self.rigid)
            return
        ids = {spec: id_ for id_, spec in self.store.blocks().items()}
        fastest = samples.intervals([ids[spec] for spec in scanned], quantile)
        by_curve: dict[BlockSpec, dict[int, float]] = defaultdict(dict)
        for spec in scanned:
            width = block_width(spec)
            if width is not None:
                by_curve[with_width(spec, 0)][width] = fastest[ids[spec]].estimate_ms
        alignment = discover_alignment(list(by_curve.values()))
        first = _first_blocks(self.widths, alignment)
        self.store.add_blocks([*self.rigid, *first])
        known = set(self.store.blocks().values())
        free = [
            spec
            for shape, widths in self.widths.items()
            for width in widths
            if (spec := with_width(shape, width)) not in known
        ]
        count = min(len(free), round(HELD_OUT_SHARE * len(first)))
        drawn = np.random.default_rng(_SEED).choice(len(free), size=count, replace=False)
        self.store.add_blocks([free[i] for i in drawn], "held-out")
        self.store.record_alignment(alignment)

    def refine(self, samples: Samples, quantile: float) -> bool:
        """Register more widths where the neighbours of a measured width predict it badly.

        Returns:
            Whether any width was registered.
        """
        alignment = self.store.alignment
        blocks = self.store.blocks("block")
        if alignment is None or not self.widths:
            return False
        hot = samples.intervals(blocks, quantile)
        curves = Curves(
            alignment,
            {blocks[id_]: as_estimate(interval, None, visits=0) for id_, interval in hot.items()},
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
        room = round(MEASURED_SHARE * sum(map(len, self.widths.values()))) - len(blocks)
        more = [with_width(shape, width) for _, shape, width in wanted[: max(0, room)]]
        self.store.add_blocks(more)
        return bool(more)


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
