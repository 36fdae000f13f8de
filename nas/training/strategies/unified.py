"""Fair paths through a unified supernet (SGNAS, Huang & Chu, CVPR 2021, Section 3.2).

A step trains four paths. In every layer their expansions are drawn without replacement from 2..6,
and the sub-blocks that are active at random. Where this differs from the published code:

* **Kernels are fair.** Every sub-block deals its kernels from a shuffled deck of three, and
  shuffles anew when the deck is empty: over any number of its uses no kernel is ahead of another by
  more than one. Four paths cannot be divided by three kernels, so decks go on from step to step.
  (Published: one order for a step's four paths, whose first kernel is used twice.)
* **Expansion 1 is trained**, which is searchable but published never was. In a layer it takes the
  place of one of the four expansions with probability ``BARE``: once in five steps, a quarter as
  often as each of the others.
"""

from __future__ import annotations

import numpy as np

from nas.spaces.sgnas import KERNELS, SKIP, SUB_BLOCKS

PATHS = 4  # a step
BARE = 0.2
_WIDE = range(2, SUB_BLOCKS + 1)


class FairPaths:
    """Draws the paths of one step after another.

    Args:
        layers: Of the supernet.
        rng: All draws come from it.
    """

    def __init__(self, layers: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._decks: list[list[list[int]]] = [
            [[] for _ in range(SUB_BLOCKS)] for _ in range(layers)
        ]

    def step(self) -> list[list[list[int]]]:
        """Four paths: a choice for every sub-block, ``(4, layers, 6)``."""
        paths: list[list[list[int]]] = [[] for _ in range(PATHS)]
        for decks in self._decks:
            for path, expansion in zip(paths, self._expansions(), strict=True):
                active = self._rng.permutation(SUB_BLOCKS)[:expansion]
                row = [SKIP] * SUB_BLOCKS
                for b in active:
                    row[b] = self._deal(decks[b])
                path.append(row)
        return paths

    def _expansions(self) -> list[int]:
        drawn = [int(e) for e in self._rng.permutation(_WIDE)[:PATHS]]
        if self._rng.random() < BARE:
            drawn[int(self._rng.integers(PATHS))] = 1
        return drawn

    def _deal(self, deck: list[int]) -> int:
        if not deck:
            deck.extend(int(c) for c in self._rng.permutation(len(KERNELS)))
        return deck.pop()
