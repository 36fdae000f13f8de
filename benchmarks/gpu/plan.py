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
        least_s: It is not started with less time than this, in seconds.
    """

    name: str
    module: str
    usual_s: float
    limit_s: float
    arguments: tuple[str, ...] = ()
    least_s: float = 10.0


# The most useful first. Times are those of an H200 with 16 cores. A step with new shapes takes up
# to 8 s there, and a first visit to a block 0.2 s. The first pass of a profile of TF-NAS alone
# takes five minutes: a profile gets what is left, or runs alone by
# `--only profile-b32 --minutes 10`.
ITEMS = (
    Item("machine", "machine", 10, 40),
    Item("tfnas-steps", "tfnas_steps", 110, 200),
    Item("sgnas-steps", "sgnas_steps", 90, 200),
    Item("agreement", "agreement", 60, 90),
    Item("tests", "testing", 45, 120),
    Item("resume", "resuming", 60, 120),
    Item("loader", "loading", 25, 40),
    Item("transfers", "transfers", 60, 200),
    Item("comparisons", "comparing", 20, 120),
    Item("profile-b32", "table_error", 0, 600, ("cuda-pytorch-b32",), least_s=420),
    Item("profile-b1", "table_error", 0, 600, ("cuda-pytorch-b1",), least_s=420),
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
