"""Limits of MACs, parameters and memory of a search; the targets of a front, and its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latbench.errors import InvalidValueError
from latbench.units import as_bytes, as_count
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import COUNTED, Count, Limit
from nas.optimize.fronts import Point, beaten, spread_budgets
from nas.optimize.memory import memory_limit
from nas.searchers import SearchResult
from nas.spaces import SearchSpace
from nas.spaces.sgnas import is_unified
from nas.spaces.small_blocks import within_memory


@dataclass(frozen=True)
class LimitedSpace:
    """A space, its prices on every device, and the limits of its networks.

    Attributes:
        space: The space; without blocks that need too much memory, if its layers can lose them.
        priced: The same space with the prices of each device.
        limits: Limits that a search has to keep itself.
    """

    space: SearchSpace
    priced: tuple[PricedSpace, ...]
    limits: tuple[Limit, ...] = ()

    def within_memory(self, most_bytes: float, *, generates: bool) -> LimitedSpace:
        """With a limit of peak memory.

        Args:
            most_bytes: Largest peak memory.
            generates: Whether the search trains a generator, which decides on all choices.

        Raises:
            BudgetError: No network of the space keeps the limit.
        """
        if generates or is_unified(self.space):
            limit = memory_limit(self.space, most_bytes)
            return LimitedSpace(self.space, self.priced, (*self.limits, limit))
        return LimitedSpace(
            within_memory(self.space, most_bytes),
            tuple(each.within_memory(most_bytes) for each in self.priced),
            self.limits,
        )

    def with_counts(self, budgets: Sequence[float | None]) -> LimitedSpace:
        """With limits of the counts of ``COUNTED``, in this order; None for no limit."""
        counts = tuple(
            Limit(Count(self.space, kind), most)
            for kind, most in zip(COUNTED, budgets, strict=True)
            if most is not None
        )
        return LimitedSpace(self.space, self.priced, (*counts, *self.limits))

    def front(
        self, count: int, targets_ms: Sequence[float], bounded: Sequence[PricedSpace]
    ) -> list[float]:
        """Targets of a front in ms.

        Args:
            count: Number of targets.
            targets_ms: Targets that were given; there must be none.
            bounded: The devices that a target holds on.

        Raises:
            InvalidValueError: There are targets already, or there is no table.
        """
        if targets_ms:
            raise InvalidValueError("--front chooses the targets: leave out --target, or --front")
        if not bounded:
            raise InvalidValueError("--front spreads latencies: give --table")
        return spread_budgets(bounded, count, self.limits)


@dataclass(frozen=True)
class AskedLimits:
    """Limits of a search: counts, and memory in bytes; None for no limit."""

    max_macs: float | None
    max_params: float | None
    max_memory: float | None

    @classmethod
    def of(
        cls,
        max_macs: str | float | None,
        max_params: str | float | None,
        max_memory: str | float | None,
    ) -> AskedLimits:
        """Limits as text with a unit or as numbers.

        Raises:
            InvalidValueError: A limit is not positive, or its unit is missing or unknown.
        """
        macs, params = (None if most is None else as_count(most) for most in (max_macs, max_params))
        return cls(macs, params, None if max_memory is None else as_bytes(max_memory))

    def on(
        self, space: SearchSpace, priced: Sequence[PricedSpace], *, generates: bool
    ) -> LimitedSpace:
        """The space with these limits.

        Raises:
            BudgetError: No network of the space keeps the memory.
        """
        found = LimitedSpace(space, tuple(priced))
        if self.max_memory is not None:
            found = found.within_memory(self.max_memory, generates=generates)
        return found.with_counts((self.max_macs, self.max_params))

    def as_dict(self) -> dict[str, float | None]:
        """The limits as a part of the configuration of a run."""
        counts = {"max_macs": self.max_macs, "max_params": self.max_params}
        return counts if self.max_memory is None else counts | {"max_memory": self.max_memory}


def dominated(results: Sequence[SearchResult]) -> list[bool]:
    """Whether another result is better in latency or score, and in neither worse.

    A measured latency counts with its interval.
    """
    return beaten([Point(*_range_ms(each), each.score) for each in results])


def _range_ms(result: SearchResult) -> tuple[float, float]:
    measured = result.correction
    if measured is not None:
        return measured.measured_low_ms, measured.measured_high_ms
    latency_ms = result.latency_ms or 0.0
    return latency_ms, latency_ms
