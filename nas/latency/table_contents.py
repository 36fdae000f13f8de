"""What the latency table of a search space is filled with.

The workflows of ``latbench`` know blocks and networks. A space gives them: its blocks at all
widths, and random networks to fit the prices on.
"""

from __future__ import annotations

import numpy as np

from latbench.blocks import Network
from latbench.workflows.profiled_table import TableContents
from nas.latency.priced_space import space_label
from nas.spaces import SearchSpace, aligned_widths, every_width, spread_networks

_TYPICAL = 100  # networks of each kind: a block of one in a thousand networks hardly matters
_TYPICAL_STREAM = 3  # gives other networks than those that are fitted on or verified with


def space_contents(space: SearchSpace, networks: int) -> TableContents:
    """Blocks of all widths to price, and random networks to fit the prices on.

    Args:
        space: The search space.
        networks: Number of networks.
    """
    return TableContents(
        space_label(space),
        space.blocks(every_width),
        spread_networks(space, networks, seed=0),
        _typical(space),
    )


def _typical(space: SearchSpace) -> list[Network]:
    """Random networks, half of them of aligned widths and half of any widths."""
    rng = np.random.default_rng([0, _TYPICAL_STREAM])
    return [
        space.lower(space.random(rng, widths))
        for widths in (aligned_widths, every_width)
        for _ in range(_TYPICAL)
    ]
