"""Leverage of measured blocks: how much an error of a block's estimate changes predicted networks.

A network's latency is about the sum of its blocks' estimates. An estimate at a width that was not
measured is interpolated between two measured ones, so an error at a measured width spreads to all
widths that are interpolated from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec, Network, block_width, with_width
from latbench.tables.alignment import Alignment
from latbench.tables.width_curves import WidthCurve

Floats = NDArray[np.float64]


class Leverage:
    """Share of measured blocks in the latencies of networks.

    Args:
        networks: Networks like those that will be predicted.
        blocks: Blocks that estimates are made from, by target id.
        alignment: Width classes of the runtime; None if no width is elastic.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        blocks: Mapping[int, BlockSpec],
        *,
        alignment: Alignment | None,
    ) -> None:
        weights = _Weights(blocks, alignment)
        self._parts: list[dict[int, float]] = []  # weights of each network's blocks, by target id
        for network in networks:
            part: dict[int, float] = defaultdict(float)
            for spec in network:
                for id_, weight in weights.of(spec).items():
                    part[id_] += weight
            self._parts.append(part)

    def mean_squares(self, known_ms: Mapping[int, float]) -> dict[int, float]:
        """Mean square, over the networks, of each block's share in the latency, by target id.

        Args:
            known_ms: Present estimates, by target id.
        """
        total: dict[int, float] = defaultdict(float)
        for part in self._parts:
            parts_ms = {id_: weight * known_ms.get(id_, 0.0) for id_, weight in part.items()}
            latency_ms = sum(parts_ms.values())
            for id_, part_ms in parts_ms.items():
                total[id_] += (part_ms / latency_ms) ** 2 if latency_ms else 0.0
        return {id_: square / len(self._parts) for id_, square in total.items()}


class _Weights:
    """Weights of measured blocks in the estimate of any block.

    Args:
        blocks: Measured blocks, by target id.
        alignment: Width classes of the runtime.
    """

    def __init__(self, blocks: Mapping[int, BlockSpec], alignment: Alignment | None) -> None:
        self._ids = {spec: id_ for id_, spec in blocks.items()}
        self._alignment = alignment
        self._widths: dict[BlockSpec, dict[int, int]] = defaultdict(dict)  # of a shape: to ids
        for spec, id_ in self._ids.items():
            width = block_width(spec)
            if width is not None:
                self._widths[with_width(spec, 0)][width] = id_
        self._found: dict[BlockSpec, dict[int, float]] = {}

    def of(self, spec: BlockSpec) -> dict[int, float]:
        """Weights by target id; empty for a block that has no estimate."""
        if spec not in self._found:
            own = self._ids.get(spec)
            self._found[spec] = self._between(spec) if own is None else {own: 1.0}
        return self._found[spec]

    def _between(self, spec: BlockSpec) -> dict[int, float]:
        """Weights of the measured widths that a width is interpolated from."""
        width = block_width(spec)
        known = {} if width is None else self._widths.get(with_width(spec, 0), {})
        if width is None or self._alignment is None or not known:
            return {}
        single = np.eye(len(known))  # interpolating unit vectors gives the weights
        curve = WidthCurve(self._alignment, dict(zip(known, single, strict=True)))
        found = curve.at(width)
        if found is None:
            around = curve.around(width)
            found = np.zeros(len(known)) if around is None else around[0]
        pairs = zip(known.values(), found.tolist(), strict=True)
        return {id_: weight for id_, weight in pairs if weight}
