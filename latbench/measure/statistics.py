"""Estimates from raw visits, with confidence intervals.

The estimate of a target is a low quantile over its visits of the fastest call of each visit. The
quantile is low because noise on a shared machine only adds time. The interval is a percentile
bootstrap over visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf, lgamma

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RESAMPLES = (
    200  # the ends of a 95 % interval are then the fifth smallest and the fifth largest value
)
_CONFIDENCE = 0.95
_MOST_AT_ONCE = 1_000_000  # resampled visits in memory


def low_quantile(samples: Floats, quantile: float) -> Floats:
    """The low quantile over visits: ``(..., visits)`` to ``(...)``.

    The i-th smallest of n visits stands for the level i / (n + 1), which is its mean level whatever
    the latencies' distribution is (Weibull 1939; definition 6 of Hyndman and Fan 1996). So blocks
    that are visited 20 and 60 times are estimated at the same level. The customary definition,
    1 + (n - 1) q, has the mean levels 9 % and 6 % for q = 5 %. With fewer than 1 / q - 1 visits
    the estimate is the smallest one.
    """
    result: Floats = np.quantile(samples, quantile, axis=-1, method="weibull")
    return result


def bootstrap(samples: Floats, quantile: float, *, seed: int = 0) -> Floats:
    """Low quantiles of resampled visits: ``(targets, visits)`` to ``(resamples, targets)``.

    All targets are resampled in the same way. Sums over targets that were visited in the same
    passes therefore keep the noise that the targets share.
    """
    count = samples.shape[-1]
    picks = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    parts = np.array_split(picks, max(1, picks.size * len(samples) // _MOST_AT_ONCE))
    drawn = [low_quantile(samples[:, part], quantile).T for part in parts]
    return np.ascontiguousarray(np.concatenate(drawn))


def low_quantile_interval(
    samples: Floats, quantile: float, *, confidence: float = _CONFIDENCE, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Estimate and bootstrap interval, of 95 % unless another confidence is asked for.

    Args:
        samples: Fastest calls in ms, ``(targets, visits)``.
        quantile: Quantile over visits.
        confidence: Share of resamples within the interval.
        seed: Seed of the resampling.

    Returns:
        Estimate, lower end and upper end, each ``(targets,)``. The estimate lies between the ends.
    """
    estimate = low_quantile(samples, quantile)
    drawn = bootstrap(samples, quantile, seed=seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
    return estimate, np.minimum(low, estimate), np.maximum(high, estimate)


def low_quantile_variance(samples: Floats, quantile: float) -> Floats:
    """Bootstrap variance of the low quantile, without resampling: ``(..., visits)`` to ``(...)``.

    Source: Maritz and Jarrett, A note on estimating the variance of the sample median (1978), for
    the order statistic that is nearest to the quantile. The k-th smallest of n resampled visits is
    at most the i-th smallest visit if at least k of the n draws are, which has a binomial
    probability.
    """
    count = samples.shape[-1]
    order = min(count, max(1, round(quantile * (count + 1))))  # k
    share = np.arange(1, count) / count
    hit, missed = np.log(share), np.log1p(-share)
    fewer = np.zeros(count + 1)  # probability that fewer than k draws are among the i smallest
    fewer[0] = 1.0
    for drawn in range(order):
        ways = lgamma(count + 1) - lgamma(drawn + 1) - lgamma(count - drawn + 1)
        fewer[1:-1] += np.exp(ways + drawn * hit + (count - drawn) * missed)
    weights = -np.diff(fewer)  # (visits,)
    ascending = np.sort(samples, axis=-1)
    mean = ascending @ weights
    result: Floats = np.maximum((ascending - mean[..., None]) ** 2 @ weights, 0.0)
    return result


def relative_half_width(estimate: float, low: float, high: float) -> float:
    """Half the width of an interval, relative to its estimate; infinite if only that is 0."""
    if not estimate:
        return inf if high > low else 0.0
    return float((high - low) / 2 / estimate)


def conformal_half_width(
    left_out_errors: Sequence[float] | Floats, coverage: float
) -> float | None:
    """Half width of the leave-one-out conformal interval with the share ``coverage``.

    Errors are those at items left out of a fit. The half width is the absolute error with rank
    ``coverage (n + 1)`` among the n errors (Lei et al. 2018); None if n is too small for that rank.
    """
    rank = ceil(coverage * (len(left_out_errors) + 1))
    if rank > len(left_out_errors):
        return None
    return float(np.sort(np.abs(left_out_errors))[rank - 1])


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation tau-a; None for fewer than two values."""
    if len(x) < 2:
        return None
    a, b = np.asarray(x), np.asarray(y)
    upper = np.triu_indices(len(a), k=1)
    agreement = np.sign(a[:, None] - a) * np.sign(b[:, None] - b)
    return float(agreement[upper].mean())
