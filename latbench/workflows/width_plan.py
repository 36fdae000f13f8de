"""Which widths of a space's blocks are measured, and which are left to interpolation."""

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
    first_knots,
    refined_knots,
)
from latbench.tables.estimation import as_estimate
from latbench.tables.width_curves import Curves

SCANNED_BLOCKS = 4  # whose widths are scanned for the runtime's classes
SCANNED_WIDTHS = 64  # of each: two periods of the largest modulus
KNOTS_A_CLASS = 5  # of every curve, at first
MEASURED_SHARE = 0.12  # of all widths, at most, before a time limit is thought of
HELD_OUT_SHARE = 0.08  # of the knots: widths that only check the interpolation
_REFINE_TOLERANCE = 0.03  # disagreement of a knot with its neighbours that calls for more
_SEED = 0
_LIKELY = Alignment((WidthClass(4, 16), WidthClass(1, 1)))  # for estimates before the scan


class KnotPlan:
    """Which of the blocks are measured: a scan, then knots, then more knots.

    Args:
        store: Where blocks are registered as soon as they are to be measured.
        blocks: All blocks that are to have a price.
    """

    def __init__(self, store: TableStore, blocks: Sequence[BlockSpec]) -> None:
        self.store = store
        self.rigid, self.widths = _by_shape(blocks)

    def scan(self) -> list[BlockSpec]:
        """The blocks whose widths tell the classes: stretches of some narrow curves.

        A step of 16 channels is a large part of a narrow block and a small one of a wide one.
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

    def add_knots(self, scanned: Sequence[BlockSpec], samples: Samples, quantile: float) -> None:
        """Find the classes from the scan; register knots and held-out widths.

        Without elastic widths there are no classes to find, and every block is measured.
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
        knots = _first_knots(self.widths, alignment)
        self.store.add_blocks([*self.rigid, *knots])
        known = set(self.store.blocks().values())
        free = [
            spec
            for shape, widths in self.widths.items()
            for width in widths
            if (spec := with_width(shape, width)) not in known
        ]
        count = min(len(free), round(HELD_OUT_SHARE * len(knots)))
        drawn = np.random.default_rng(_SEED).choice(len(free), size=count, replace=False)
        self.store.add_blocks([free[i] for i in drawn], "held-out")
        self.store.record_alignment(alignment)

    def refine(self, samples: Samples, quantile: float) -> bool:
        """Register widths where knots disagree with their neighbours; whether there were any."""
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
                for error, width in refined_knots(
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
    """Blocks without an elastic width, and of the others all widths, ascending, by the rest.

    Where a shape has no more widths than first knots, they are operations of a space without
    elastic widths (k3_e3 and k3_e6, say), and all are measured.
    """
    rigid = []
    grouped: dict[BlockSpec, list[int]] = defaultdict(list)
    for spec in blocks:
        width = block_width(spec)
        if width is None:
            rigid.append(spec)
        else:
            grouped[with_width(spec, 0)].append(width)
    few = [shape for shape, found in grouped.items() if len(found) <= KNOTS_A_CLASS]
    rigid += [with_width(shape, width) for shape in few for width in grouped.pop(shape)]
    return rigid, {shape: sorted(found) for shape, found in grouped.items()}


def _first_knots(
    widths_of: Mapping[BlockSpec, Sequence[int]], alignment: Alignment
) -> list[BlockSpec]:
    return [
        with_width(shape, width)
        for shape, widths in widths_of.items()
        for width in first_knots(widths, alignment, count=KNOTS_A_CLASS)
    ]


def likely_blocks(blocks: Sequence[BlockSpec]) -> list[BlockSpec]:
    """About the blocks that would be measured, said before anything is known of the runtime."""
    rigid, widths = _by_shape(blocks)
    knots = _first_knots(widths, _LIKELY)
    chosen = {*rigid, *knots}
    rest = [spec for spec in blocks if spec not in chosen]
    scanned = SCANNED_BLOCKS * SCANNED_WIDTHS if widths else 0
    extra = min(len(rest), round(HELD_OUT_SHARE * len(knots)) + scanned)
    return rigid + knots + rest[:: max(1, len(rest) // max(extra, 1))][:extra]
