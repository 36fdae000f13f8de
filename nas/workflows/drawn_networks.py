"""Random networks of a table: of its search space, or chains of its model's segments."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from latbench.blocks import Network
from latbench.errors import LatbenchWarning
from latbench.tables import LatencyTable
from latbench.workflows.model_tables import chains, is_model_table, part_name, table_model
from nas.spaces import Architecture, distinct_random
from nas.workflows.inputs import priced_by


@dataclass(frozen=True)
class NamedNetwork:
    """A network with its name in results, and its architecture if it has one."""

    name: str
    network: Network
    architecture: Architecture | None = None


def draw_networks(
    table: LatencyTable,
    count: int,
    seed: int | Sequence[int],
    widths: str,
    *,
    without: Collection[Network] = (),
) -> list[NamedNetwork]:
    """Distinct random networks of a table; fewer if its space or model does not have so many.

    Args:
        table: A table of a space or of a model.
        count: Number of networks.
        seed: Seed of the draw.
        widths: Widths of the networks: ``efficient``, or ``any`` width with a price.
        without: Networks that are not drawn.
    """
    if is_model_table(table):
        whole = table_model(table)
        drawn = [
            NamedNetwork(part_name(whole, part), part)
            for part in chains(whole, count, seed=seed, without=without)
        ]
    else:
        priced = priced_by(table, widths)
        rng = np.random.default_rng(seed)
        drawn = [
            NamedNetwork(f"random {number}", priced.space.lower(found), found)
            for number, found in enumerate(
                distinct_random(priced.space, count, rng, priced.widths, without=without), start=1
            )
        ]
    if 0 < len(drawn) < count:
        warnings.warn(
            f"{count} networks were asked for, and {table.space.name} has {len(drawn)} that are "
            "different and new: these are measured",
            LatbenchWarning,
            stacklevel=3,
        )
    return drawn
