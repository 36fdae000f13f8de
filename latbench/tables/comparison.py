"""Comparison of two tables of the same blocks (`table diff`): which blocks are slower?

A block counts as changed if two conditions hold. First, its low quantile differs by more than the
tolerance. Second, a rank test over its visits (Mann and Whitney, 1947) finds more than that
difference, after the correction of Benjamini and Hochberg (1995) for testing many blocks at once.
The test alone would report what comes from a noisier hour. The quantile alone would report noise. A
block counts as unchanged only if the interval of its ratio lies within the tolerance. For all other
blocks the verdict is UNSURE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import erfc, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec, block_key
from latbench.device import DeviceProfile
from latbench.errors import MismatchError
from latbench.measure.samples import Samples
from latbench.measure.statistics import bootstrap, low_quantile
from latbench.result import Result
from latbench.tables.store import TableStore

Floats = NDArray[np.float64]
Verdict = Literal["SAME", "FASTER", "SLOWER", "UNSURE"]

SIGNIFICANCE = 0.05  # expected share of false alarms among the blocks called changed
_SEEDS = (1, 2)  # two seeds, so that the two tables are resampled independently
_EXACT_VISITS = 50  # of both samples together; for more, the approximation is near enough


@dataclass(frozen=True)
class BlockChange:
    """Change of one block.

    Attributes:
        ratio: Latency after over latency before, at the protocol's low quantile; of hot calls, or
            of calls in the state of the caches that the device profile states.
        low: Lower end of the 95 % interval of the ratio.
        high: Upper end of the 95 % interval of the ratio.
        p_value: p-value of the rank test for a change beyond the tolerance, corrected for the
            number of blocks; 1 for a ratio within the tolerance.
    """

    spec: BlockSpec
    ratio: float
    low: float
    high: float
    p_value: float
    verdict: Verdict


@dataclass(frozen=True, repr=False)
class TableDifference(Result):
    """Changes of all blocks that both tables measured.

    Attributes:
        ratio: Geometric mean of the ratios of all blocks.
        only_before: Number of blocks measured only before.
        only_after: Number of blocks measured only after.
        environment: Differences between the device profiles and the machines of the two tables.
    """

    changes: tuple[BlockChange, ...]
    ratio: float
    only_before: int
    only_after: int
    environment: tuple[str, ...]

    def count(self, verdict: Verdict) -> int:
        """Number of blocks with this verdict."""
        return sum(change.verdict == verdict for change in self.changes)

    @property
    def passed(self) -> bool:
        """Whether no block is slower."""
        return self.count("SLOWER") == 0

    def as_dict(self) -> dict[str, Any]:
        """Every block's change and the counts of verdicts as plain JSON values."""
        return {
            "blocks": [
                {
                    "block": block_key(change.spec),
                    "ratio": change.ratio,
                    "low": change.low,
                    "high": change.high,
                    "p_value": change.p_value,
                    "verdict": change.verdict,
                }
                for change in self.changes
            ],
            "same": self.count("SAME"),
            "faster": self.count("FASTER"),
            "slower": self.count("SLOWER"),
            "unsure": self.count("UNSURE"),
            "ratio": self.ratio,
            "only_before": self.only_before,
            "only_after": self.only_after,
            "environment": list(self.environment),
            "passed": self.passed,
        }


def compare(before: TableStore, after: TableStore, *, tolerance: float) -> TableDifference:
    """Compare what two profiling runs measured, block by block.

    Args:
        before: Table that is the reference.
        after: Table that is compared with it.
        tolerance: Largest relative change of a latency that does not matter.

    Raises:
        MismatchError: The tables belong to different spaces, batch sizes or states of the caches,
            or share no measured block.
    """
    _require_comparable(before, after)
    old, new = _visits(before), _visits(after)
    common = [spec for spec in old if spec in new]
    if not common:
        raise MismatchError(f"{before.path} and {after.path} have no measured block in common")
    quantile = after.device.sweep.quantile
    ratios = [
        float(low_quantile(new[spec], quantile) / low_quantile(old[spec], quantile))
        for spec in common
    ]
    p_values = adjusted(
        [
            p_value_beyond(ratio, tolerance, partial(_p_value, old[spec], new[spec]))
            for spec, ratio in zip(common, ratios, strict=True)
        ]
    )
    changes = tuple(
        _change(
            spec,
            old[spec],
            new[spec],
            ratio=ratio,
            p_value=p_value,
            quantile=quantile,
            tolerance=tolerance,
        )
        for spec, ratio, p_value in zip(common, ratios, p_values, strict=True)
    )
    return TableDifference(
        changes,
        ratio=float(np.exp(np.mean(np.log([change.ratio for change in changes])))),
        only_before=len(old) - len(common),
        only_after=len(new) - len(common),
        environment=(
            *_profile_differences(before.device, after.device),
            *after.environment.differences(before.environment),
        ),
    )


def _require_comparable(before: TableStore, after: TableStore) -> None:
    """Refuse tables of different spaces, states of the caches or batch sizes."""
    if before.space != after.space:
        raise MismatchError(
            f"{before.path} prices {before.space}, {after.path} {after.space}: compare tables of "
            "one space"
        )
    one, other = before.device.condition, after.device.condition
    if one != other:
        raise MismatchError(
            f"calls of {before.path} are measured {one or 'back to back'}, those of {after.path} "
            f"{other or 'back to back'}: compare tables of one state of the caches"
        )
    if before.device.batch_size != after.device.batch_size:
        raise MismatchError(
            f"calls of {before.path} have {before.device.batch_size} images, those of {after.path} "
            f"{after.device.batch_size}: compare tables of one batch size"
        )


def _profile_differences(before: DeviceProfile, after: DeviceProfile) -> list[str]:
    """Differences between two device profiles that change latencies, in words."""
    fields = ("runtime", "device", "precision", "threads", "clock", "options")
    pairs = [(name, getattr(after, name), getattr(before, name)) for name in fields]
    return [f"{name} is {now}, was {then}" for name, now, then in pairs if now != then]


def _visits(store: TableStore) -> dict[BlockSpec, Floats]:
    """Fastest call of every profiling visit in ms, by block: a hot one, or one in the state of the
    caches that the device profile states.
    """
    sweep = store.profiling()
    samples = Samples() if sweep is None else Samples.of(store.visits(sweep))
    calls_ms = samples.hot_ms if store.device.condition is None else samples.cold_ms
    return {
        spec: np.array(calls_ms[id_]) for id_, spec in store.blocks().items() if id_ in calls_ms
    }


def _change(
    spec: BlockSpec,
    old: Floats,
    new: Floats,
    *,
    ratio: float,
    p_value: float,
    quantile: float,
    tolerance: float,
) -> BlockChange:
    drawn_new, drawn_old = (
        bootstrap(visits[None], quantile, seed=seed)[:, 0]
        for visits, seed in zip((new, old), _SEEDS, strict=True)
    )
    low, high = map(float, np.quantile(drawn_new / drawn_old, (0.025, 0.975)))
    low, high = min(low, ratio), max(high, ratio)
    verdict = verdict_on(ratio, low, high, p_value=p_value, tolerance=tolerance)
    return BlockChange(spec, ratio, low, high, p_value, verdict)


def _p_value(old: Floats, new: Floats, ratio: float) -> float:
    """p-value of a difference between ``new`` and ``old`` times a ratio."""
    return rank_test(new, old * ratio)


def p_value_beyond(ratio: float, tolerance: float, test: Callable[[float], float]) -> float:
    """p-value of a change beyond the tolerance; 1 for a ratio within it.

    Args:
        ratio: Latency after over latency before.
        tolerance: Largest relative change that does not matter.
        test: p-value of a difference between the ratio and an end of the tolerated ones.
    """
    low, high = 1 / (1 + tolerance), 1 + tolerance
    if low <= ratio <= high:
        return 1.0
    return test(high if ratio > high else low)


def verdict_on(
    ratio: float,
    low: float,
    high: float,
    *,
    p_value: float,
    tolerance: float,
    significance: float = SIGNIFICANCE,
) -> Verdict:
    """Verdict on a ratio of latencies, after over before, with its interval.

    Args:
        ratio: The ratio.
        low: Lower end of its interval.
        high: Upper end of its interval.
        p_value: p-value of a change beyond the tolerance, corrected for the number of comparisons.
        tolerance: Largest relative change that does not matter.
        significance: p-value below which a change is believed.
    """
    if p_value < significance and ratio > 1 + tolerance:
        return "SLOWER"
    if p_value < significance and ratio < 1 / (1 + tolerance):
        return "FASTER"
    if 1 / (1 + tolerance) <= low and high <= 1 + tolerance:
        return "SAME"
    return "UNSURE"


def rank_test(x: Floats, y: Floats) -> float:
    """Two-sided p-value of the Mann-Whitney test.

    It is exact for few visits without ties, else the normal approximation with ties. For 11 visits
    against 11 that are all slower, the approximation is 30 times too large, and would not be
    significant among a thousand blocks.

    Args:
        x: First sample.
        y: Second sample.
    """
    both = np.concatenate([x, y])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # ties share their mean rank
    n, m = len(x), len(y)
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    if n + m <= _EXACT_VISITS and counts.max() == 1:
        return _exact_p_value(round(min(u, n * m - u)), min(n, m), max(n, m))
    ties = float((counts**3 - counts).sum())
    variance = n * m / 12 * ((n + m + 1) - ties / ((n + m) * (n + m - 1)))
    if variance <= 0:
        return 1.0
    distance = max(0.0, abs(u - n * m / 2) - 0.5)  # with continuity correction
    return erfc(distance / sqrt(2 * variance))


def _exact_p_value(u: int, n: int, m: int) -> float:
    """Two-sided p-value of the smaller statistic U of n and m visits without ties."""
    ways = _rank_sums(n, m)
    return min(1.0, 2 * float(ways[: u + 1].sum() / ways.sum()))


@lru_cache(maxsize=256)
def _rank_sums(n: int, m: int) -> Floats:
    """Number of ways to choose n of n + m ranks, by the statistic U: ``(n * m + 1,)``."""
    ways = np.zeros((n + 1, n * m + 1))  # of chosen ranks, by their number and their U so far
    ways[0, 0] = 1.0
    for rank in range(n + m):
        for chosen in range(min(n, rank + 1), 0, -1):
            passed = rank - (chosen - 1)  # ranks of the other sample below this one
            if passed <= m:
                ways[chosen, passed:] += ways[chosen - 1, : n * m + 1 - passed]
    found: Floats = ways[n]
    return found


def signed_rank_test(differences: Floats) -> float:
    """Two-sided p-value of the signed-rank test (Wilcoxon, 1945), by the normal approximation.

    Args:
        differences: Differences of pairs that were measured together, such as in one pass.
    """
    apart = differences[differences != 0]
    if not len(apart):
        return 1.0
    n = len(apart)
    _, inverse, counts = np.unique(np.abs(apart), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
    ties = float((counts**3 - counts).sum())
    variance = n * (n + 1) * (2 * n + 1) / 24 - ties / 48
    distance = max(0.0, abs(float(ranks[apart > 0].sum()) - n * (n + 1) / 4) - 0.5)
    return erfc(distance / sqrt(2 * variance))


def adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values after the correction of Benjamini and Hochberg, in the same order."""
    p = np.array(p_values)
    if not len(p):
        return []
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    monotone = np.minimum.accumulate(scaled[::-1])[::-1]
    result = np.empty_like(p)
    result[order] = np.minimum(monotone, 1.0)
    return [float(value) for value in result]
