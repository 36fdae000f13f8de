"""Samples of a sweep, the fastest call of each visit: their intervals and split-half noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from latbench.measure.statistics import (
    bootstrap,
    low_quantile,
    low_quantile_interval,
    low_quantile_variance,
    relative_half_width,
)
from latbench.measure.visit import Visit

Floats = NDArray[np.float64]

_TINY = 1e-300  # instead of the square of a latency of 0


@dataclass(frozen=True)
class Interval:
    """An estimate in ms with the ends of its 95 % interval."""

    estimate_ms: float
    low_ms: float
    high_ms: float

    @property
    def half_width(self) -> float:
        """Half the interval's width, relative to the estimate."""
        return relative_half_width(self.estimate_ms, self.low_ms, self.high_ms)

    def scaled(self, factor: float) -> Interval:
        """The interval multiplied by ``factor``."""
        return Interval(self.estimate_ms * factor, self.low_ms * factor, self.high_ms * factor)


@dataclass
class Samples:
    """Fastest hot and cold call of every visit in ms, by target id."""

    hot_ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    cold_ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, visits: Iterable[tuple[int, Visit]]) -> Samples:
        """Collect the samples of some visits."""
        samples = cls()
        samples.add(visits)
        return samples

    def add(self, visits: Iterable[tuple[int, Visit]]) -> None:
        for target, visit in visits:
            self.hot_ms[target].append(min(visit.hot_ns) / 1e6)
            if visit.cold_ns:
                self.cold_ms[target].append(min(visit.cold_ns) / 1e6)

    def intervals(
        self, targets: Iterable[int], quantile: float, *, cold: bool = False
    ) -> dict[int, Interval]:
        """Estimates of those targets that were visited, by id."""
        found: dict[int, Interval] = {}
        for ids, stacked in _by_visits(self.cold_ms if cold else self.hot_ms, targets):
            ends = low_quantile_interval(stacked, quantile)
            for id_, *row in zip(ids, *ends, strict=True):
                found[id_] = Interval(*map(float, row))
        return found

    def relative_variances(
        self, targets: Iterable[int], quantile: float, *, cold: bool = False
    ) -> dict[int, float]:
        """Variance of each estimate relative to its square, of targets with two visits or more.

        It is that of a bootstrap, but takes a thousandth of the time.
        """
        found: dict[int, float] = {}
        for ids, stacked in _by_visits(self.cold_ms if cold else self.hot_ms, targets):
            if stacked.shape[1] < 2:
                continue
            squares = np.maximum(low_quantile(stacked, quantile) ** 2, _TINY)
            relative = low_quantile_variance(stacked, quantile) / squares
            found.update(zip(ids, relative.tolist(), strict=True))
        return found

    def joint_half_width(
        self, targets: Iterable[int], quantile: float, *, by_pass: int = 0
    ) -> float:
        """Relative half width of the interval of the summed latency of the visited targets.

        Targets with equally many visits are resampled together, because the noise of one pass
        affects them all. Targets that were added later have fewer visits and form another group.

        Args:
            targets: Ids of the targets.
            quantile: Quantile over visits.
            by_pass: Number of visits to a target in a pass. A pass that the time limit ended early
                leaves differences of so many visits; they are cut off.
        """
        groups = list(_trimmed(self.hot_ms, targets, by_pass))
        drawn = sum(bootstrap(stacked, quantile).sum(axis=1) for stacked in groups)  # (resamples,)
        low, high = np.quantile(drawn, (0.025, 0.975))
        total = sum(float(low_quantile(stacked, quantile).sum()) for stacked in groups)
        return relative_half_width(total, low, high)

    def split_half_noise(self, targets: Iterable[int], quantile: float) -> float | None:
        """Mean relative difference between the targets' latencies in two halves of the sweep."""
        rows = [np.array(self.hot_ms[id_]) for id_ in targets if len(self.hot_ms[id_]) >= 4]
        if not rows:
            return None
        halves = [
            [low_quantile(half, quantile) for half in (row[: len(row) // 2], row[len(row) // 2 :])]
            for row in rows
        ]
        return float(np.mean([abs(first / second - 1) for first, second in halves]))


def _by_visits(
    values: Mapping[int, list[float]], targets: Iterable[int]
) -> Iterator[tuple[list[int], Floats]]:
    """Group visited targets by their number of visits; times are ``(targets, visits)``."""
    by_count: dict[int, list[int]] = defaultdict(list)
    for target in targets:
        if values.get(target):
            by_count[len(values[target])].append(target)
    for ids in by_count.values():
        yield ids, np.array([values[id_] for id_ in ids])


def _trimmed(
    values: Mapping[int, list[float]], targets: Iterable[int], most: int
) -> Iterator[Floats]:
    """Times of visited targets in groups, ``(targets, visits)``.

    A group has the targets with the fewest visits and those that have at most ``most`` more, whose
    last visits are left out.
    """
    left = sorted((values[id_] for id_ in targets if values.get(id_)), key=len)
    while left:
        least = len(left[0])
        group = [times[:least] for times in left if len(times) <= least + most]
        yield np.array(group)
        left = left[len(group) :]
