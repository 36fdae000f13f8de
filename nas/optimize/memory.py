"""Peak memory as a limit, for spaces whose layers cannot lose choices.

Unified blocks are one supernet of all kernels, and a generator decides on all choices of a space.
There the number of blocks beyond the limit is a sum over layers, and it may not exceed 0.
Elsewhere ``nas.spaces.small_blocks`` leaves such blocks out of the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.optimize.constraints import Floats, Limit
from nas.spaces import Choice, Layer, SearchSpace
from nas.spaces.small_blocks import fits, require_memory

MOST = 0.5  # blocks beyond the limit: fewer than one


@dataclass(frozen=True)
class LargeBlocks:
    """Number of blocks of a network that need more than a peak memory.

    Attributes:
        most_bytes: Largest peak memory of a block.
    """

    space: SearchSpace
    most_bytes: float

    @property
    def kind(self) -> Literal["memory"]:
        return "memory"

    @property
    def name(self) -> str:
        return "peak memory"

    @property
    def base(self) -> Floats:
        return np.zeros(1)

    def addend(self, layer: Layer, choice: Choice) -> Floats:
        return np.array([0.0 if self.allows(layer, choice) else 1.0])

    def allows(self, layer: Layer, choice: Choice) -> bool:
        return fits(layer, choice, self.most_bytes)

    def choices(self, layer: Layer, op: str) -> None:
        return None

    def format(self, amount: float) -> str:
        return f"{self.most_bytes / 1e6:.6g} MB"


def memory_limit(space: SearchSpace, most_bytes: float) -> Limit:
    """A limit of the peak memory in bytes.

    Raises:
        BudgetError: No network of the space keeps the limit.
    """
    require_memory(space, most_bytes)
    return Limit(LargeBlocks(space, most_bytes), MOST)
