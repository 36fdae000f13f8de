"""The items of the check, and how they share its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One independent piece of the check.

    Attributes:
        name: What ``--only`` calls it.
        module: Module in ``benchmarks.gpu`` whose ``run`` does it.
        usual_s: Time that is kept free for it, in seconds.
        limit_s: The longest it may take.
        arguments: What its module is given.
    """

    name: str
    module: str
    usual_s: float
    limit_s: float
    arguments: tuple[str, ...] = ()


# the cheapest and most telling first
ITEMS = (
    Item("machine", "machine", 10, 40),
    Item("agreement", "agreement", 45, 75),
    Item("transfers", "transfers", 25, 100),
    Item("tfnas-steps", "tfnas_steps", 45, 80),
    Item("sgnas-steps", "sgnas_steps", 35, 60),
    Item("profile-b32", "profiling", 110, 180, ("cuda-pytorch-b32",)),
    Item("profile-b1", "profiling", 100, 180, ("cuda-pytorch-b1",)),
    Item("tests", "testing", 25, 80),
    Item("resume", "resuming", 40, 120),
    Item("loader", "loading", 20, 35),
    Item("comparisons", "comparing", 25, 120),
)


def allowed_s(item: Item, later: Sequence[Item], left_s: float) -> float:
    """Seconds that an item may take, so that the later ones keep their usual time.

    Args:
        item: The item that is next.
        later: Items after it.
        left_s: Seconds that are left for all of them.
    """
    spare_s = left_s - sum(other.usual_s for other in later)
    return min(left_s, item.limit_s, max(spare_s, item.usual_s))
