"""The choice of widths: the least loss of importance that keeps a predicted latency.

A latency is the largest of a few sums over segments (``PriceModel.pieces``), and each segment's
addend depends on the widths of its groups together. The choice is a mixed-integer linear program: a
binary for every width of every group, and a share for every combination of widths at a segment.
Shares have the binaries as their marginals, so each segment has the addend of the chosen widths.
HiGHS solves it exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from latbench.errors import BudgetError, LatbenchError
from latbench.tables import LatencyTable
from latbench.units import format_ms
from nas.pruning.groups import PrunableGroup
from nas.pruning.width_grid import Place, WidthGrid, Widths

Floats = NDArray[np.float64]

_LIMIT_S = 60.0
_GAP = 1e-4  # of the loss, at which the solver may stop


@dataclass(frozen=True)
class PricedWidths:
    """Latencies of a network at all widths of its groups.

    Attributes:
        grid: The widths.
        addends: What every place adds to each sum, ``(candidates of each group ..., sums)`` in ms.
        base_ms: What every sum has besides, ``(sums,)``.
    """

    grid: WidthGrid
    addends: Sequence[Floats]
    base_ms: Floats

    @classmethod
    def of(cls, grid: WidthGrid, table: LatencyTable) -> PricedWidths:
        """The prices of a table, interpolated between levels.

        Raises:
            MismatchError: The table does not price a segment.
        """
        sums = table.price_model.pieces()
        slopes = np.array([slope for slope, _ in sums])
        base_ms = np.array([constant for _, constant in sums])
        return cls(grid, [_addends(grid, place, table, slopes) for place in grid.places], base_ms)

    def latency_ms(self, widths: Widths) -> float:
        """Predicted latency with some of the candidate widths."""
        total = self.base_ms.copy()
        for place, addends in zip(self.grid.places, self.addends, strict=True):
            code = tuple(
                self.grid.grids[group].candidates.index(widths[group]) for group in place.groups
            )
            total += addends[code]
        return float(total.max())

    def range_ms(self) -> tuple[float, float]:
        """Predicted latency with the least and with the whole widths."""
        grids = self.grid.grids
        least = {group: grid.candidates[0] for group, grid in grids.items()}
        whole = {group: group.width for group in grids}
        return self.latency_ms(least), self.latency_ms(whole)

    def check_target(self, target_ms: float) -> None:
        """Refuse a latency below the narrowest network, or one that the whole network has.

        Raises:
            BudgetError: Carries the nearest feasible latency.
        """
        least_ms, whole_ms = self.range_ms()
        if target_ms < least_ms:
            raise BudgetError(
                f"{format_ms(target_ms)} is out of reach: with a quarter of its channels the "
                f"network takes {format_ms(least_ms)}; choose a higher target or a smaller network",
                nearest_ms=least_ms,
            )
        if target_ms >= whole_ms:
            raise BudgetError(
                f"the network already takes {format_ms(whole_ms)}, at most the target of "
                f"{format_ms(target_ms)}: there is nothing to remove",
                nearest_ms=whole_ms,
            )


def _addends(grid: WidthGrid, place: Place, table: LatencyTable, slopes: Floats) -> Floats:
    levels = [grid.grids[group].levels for group in place.groups]
    found = np.zeros((*map(len, levels), len(slopes)))
    for code in product(*(range(len(each)) for each in levels)):
        segment = place.segments[tuple(own[at] for own, at in zip(levels, code, strict=True))]
        found[code] = table.price_ms(segment) + slopes * table.footprint_bytes(segment)
    for axis, group in enumerate(place.groups):
        weights = grid.grids[group].interpolation  # (candidates, levels)
        found = np.moveaxis(np.tensordot(weights, found, axes=(1, axis)), 0, axis)
    return found


def lost_importance(
    importances: Mapping[PrunableGroup, Floats], grid: WidthGrid
) -> dict[PrunableGroup, Floats]:
    """Loss of each group at each candidate width, ``(candidates,)``; 0 at the whole width.

    It is the share of the group's importance that its removed channels have, the least important
    ones.
    """
    lost = {}
    for group, own in grid.grids.items():
        kept = np.cumsum(np.sort(importances[group])[::-1])
        shares = kept[np.array(own.candidates) - 1] / max(kept[-1], np.finfo(float).tiny)
        lost[group] = 1.0 - shares
    return lost


def choose_widths(
    priced: PricedWidths, lost: Mapping[PrunableGroup, Floats], target_ms: float
) -> dict[PrunableGroup, int]:
    """Widths with the least sum of losses, predicted at a latency of at most ``target_ms``.

    Args:
        priced: Latencies of all widths.
        lost: Loss of each group at each candidate width.
        target_ms: Latency not to exceed.

    Raises:
        LatbenchError: There are no such widths, or the solver found none in a minute.
    """
    program = _Program(priced)
    chosen = program.solve(lost, target_ms)
    if chosen is None:
        raise LatbenchError(
            f"no widths were found for {format_ms(target_ms)} within {_LIMIT_S:.0f} s: choose a "
            "target that is farther from the narrowest network"
        )
    return chosen


class _Program:
    """The linear program of a choice: first the binaries of all widths, then all shares.

    Attributes:
        first: Number of each group's first binary.
        binaries: Number of binaries.
        loads: What each variable adds to each sum, ``(variables, sums)`` in ms.
        fixed_ms: What every sum has besides, ``(sums,)``.
    """

    def __init__(self, priced: PricedWidths) -> None:
        self.grids = priced.grid.grids
        self.first: dict[PrunableGroup, int] = {}
        self.binaries = 0
        for group, grid in self.grids.items():
            self.first[group] = self.binaries
            self.binaries += len(grid.candidates)
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._values: list[float] = []
        self._right: list[float] = []
        for group, grid in self.grids.items():
            own = range(self.first[group], self.first[group] + len(grid.candidates))
            self._equation([*own], [1.0] * len(own), 1.0)
        loads = [np.zeros((self.binaries, len(priced.base_ms)))]
        self.fixed_ms = priced.base_ms.copy()
        for place, addends in zip(priced.grid.places, priced.addends, strict=True):
            if place.groups:
                self._shares(place.groups, addends.shape[:-1], begin=sum(map(len, loads)))
                loads.append(addends.reshape(-1, addends.shape[-1]))
            else:
                self.fixed_ms += addends
        self.loads = np.concatenate(loads)

    def _equation(self, columns: list[int], values: list[float], right: float) -> None:
        """The sum of ``values`` times the variables ``columns`` is ``right``."""
        self._rows += [len(self._right)] * len(columns)
        self._columns += columns
        self._values += values
        self._right.append(right)

    def _shares(self, groups: Sequence[PrunableGroup], sizes: tuple[int, ...], begin: int) -> None:
        """Shares of the combinations at a place, whose marginals are the groups' binaries."""
        shares = begin + np.arange(prod(sizes)).reshape(sizes)
        for axis, group in enumerate(groups):
            for at in range(sizes[axis]):
                own = np.take(shares, at, axis=axis).ravel().tolist()
                self._equation([*own, self.first[group] + at], [1.0] * len(own) + [-1.0], right=0.0)

    def solve(
        self, lost: Mapping[PrunableGroup, Floats], target_ms: float
    ) -> dict[PrunableGroup, int] | None:
        """The widths of least loss; None if there are none, or none was found in time."""
        count = len(self.loads)
        shape = (len(self._right), count)
        equal = coo_array((self._values, (self._rows, self._columns)), shape=shape).tocsr()
        solved = milp(
            np.concatenate(
                [*(lost[group] for group in self.grids), np.zeros(count - self.binaries)]
            ),
            integrality=np.arange(count) < self.binaries,
            bounds=Bounds(0.0, 1.0),
            constraints=[
                LinearConstraint(equal, self._right, self._right),
                LinearConstraint(self.loads.T / target_ms, -np.inf, 1 - self.fixed_ms / target_ms),
            ],
            options={"time_limit": _LIMIT_S, "mip_rel_gap": _GAP},
        )
        if solved.x is None:
            return None
        chosen = {}
        for group, grid in self.grids.items():
            own = solved.x[self.first[group] : self.first[group] + len(grid.candidates)]
            chosen[group] = grid.candidates[int(own.argmax())]
        return chosen
