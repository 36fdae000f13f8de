"""The error for a constraint that no architecture keeps: what is out of reach, what to ask for."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.errors import BudgetError
from nas.optimize.constraints import Limit

_ROOM = 1.001  # factor that exceeds the rounding of a printed amount


def out_of_reach(space_name: str, found: Sequence[tuple[Limit, float]]) -> BudgetError:
    """The error, from every limit and its amount at the encoding of the least load.

    Limits of one kind of quantity are each out of reach; limits of several kinds are out of reach
    together.
    """
    kinds = {limit.quantity.kind for limit, _ in found}
    if len(kinds) == 1:
        found = [(limit, amount) for limit, amount in found if amount > limit.budget]
    nearest: dict[str, float] = {}
    for limit, amount in found:
        nearest[limit.quantity.kind] = max(amount, nearest.get(limit.quantity.kind, 0.0))
    asked = [f"{each.quantity.name} of {each.quantity.format(each.budget)}" for each, _ in found]
    least = [limit.quantity.format(amount) for limit, amount in found]
    enough = [limit.quantity.format(amount * _ROOM) for limit, amount in found]
    if len(kinds) == 1:
        words = [
            f"{what} is out of reach: the least of space {space_name} is {amount}"
            for what, amount in zip(asked, least, strict=True)
        ]
        message = "; ".join(words)
    else:
        message = (
            f"{' and '.join(asked)} are out of reach together: the nearest architecture of "
            f"space {space_name} has {' and '.join(least)}"
        )
    return BudgetError(
        f"{message}; ask for {' and '.join(enough)} or more",
        nearest_ms=nearest.get("latency"),
        nearest_macs_m=nearest["macs"] / 1e6 if "macs" in nearest else None,
        nearest_params_m=nearest["params"] / 1e6 if "params" in nearest else None,
    )
