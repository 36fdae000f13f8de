"""What the latency table of a search space is filled with.

The workflows of ``latbench`` know blocks and networks. A space gives them: its blocks at all
widths, and random networks to fit the prices on.
"""

from __future__ import annotations

from latbench.workflows.profiled_table import TableContents
from nas.latency.priced_space import space_label
from nas.spaces import SearchSpace, every_width, spread_networks


def space_contents(space: SearchSpace, networks: int) -> TableContents:
    """Blocks of all widths to price, and random networks to fit the prices on.

    Args:
        space: The search space.
        networks: Number of networks.
    """
    return TableContents(
        space_label(space), space.blocks(every_width), spread_networks(space, networks, seed=0)
    )
