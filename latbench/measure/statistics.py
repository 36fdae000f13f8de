"""Estimates from raw visits, with their doubts.

The estimate of a target is a low quantile, over visits, of the fastest call of a visit: noise on
a shared machine only ever adds time. Its interval is a percentile bootstrap over visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RESAMPLES = 200  # the ends of a 95 % interval are then the fifth values from either side
_CONFIDENCE = 0.95


def low_quantile(samples: Floats, quantile: float) -> Floats:
    """The low quantile over visits: ``(..., visits)`` to ``(...)``."""
    result: Floats = np.quantile(samples, quantile, axis=-1)
    return result


def bootstrap(samples: Floats, quantile: float, *, seed: int = 0) -> Floats:
    """Low quantiles of resampled visits: ``(targets, visits)`` to ``(resamples, targets)``.

    The resampling is the same for all targets, so that sums over targets that were visited in
    the same passes keep their joint noise.
    """
    count = samples.shape[-1]
    picks = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    return np.stack([low_quantile(samples[:, pick], quantile) for pick in picks])


def low_quantile_interval(
    samples: Floats, quantile: float, *, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Estimate and 95 % bootstrap interval.

    Args:
        samples: Fastest calls in ms, ``(targets, visits)``.
        quantile: Which quantile over visits.
        seed: Of the resampling.

    Returns:
        Estimate, lower and upper end, each ``(targets,)``; the estimate lies between the ends.
    """
    estimate = low_quantile(samples, quantile)
    drawn = bootstrap(samples, quantile, seed=seed)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
    return estimate, np.minimum(low, estimate), np.maximum(high, estimate)


def conformal_half_width(
    left_out_errors: Sequence[float] | Floats, coverage: float
) -> float | None:
    """The error that a share ``coverage`` of new ones stay below, by split conformal prediction.

    Of n errors the one of rank ``coverage (n + 1)`` by size (Lei et al. 2018); None if there are
    too few for that rank.
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
