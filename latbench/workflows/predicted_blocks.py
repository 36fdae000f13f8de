"""Latencies of blocks on a new device, from those on another one and a few that were measured.

A ridge regression of the logarithm of the ratio new / old, on features of the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec, block_width
from latbench.cost import block_cost
from latbench.measure.samples import Interval
from latbench.measure.statistics import conformal_half_width
from latbench.tables import Estimate

Floats = NDArray[np.float64]

_PENALTIES = (0.1, 1.0, 10.0, 100.0)  # ridge penalties; the last leaves almost one common factor
_TINY = 1e-9  # stands for no multiply-accumulates or weights, as of a pooling, in a logarithm
_COVERAGE = 0.95  # share of transferred latencies that lie inside their intervals


@dataclass(frozen=True)
class PredictedBlocks:
    """Latencies predicted for the new device.

    Attributes:
        latencies: Latency of every block with its 95 % interval.
        left_out_error: Mean absolute error of measured blocks left out of the regression.
        half_width: Half width of the intervals, of the logarithm of a latency.
    """

    latencies: dict[BlockSpec, Interval]
    left_out_error: float
    half_width: float


def predict_blocks(
    old: dict[BlockSpec, Estimate],
    features: Floats,
    measured_ms: dict[BlockSpec, float],
    *,
    cold: bool,
) -> PredictedBlocks:
    """Predict latencies on the new device from those of measured blocks.

    Args:
        old: Estimates of all blocks on the old device.
        features: Features of the same blocks, ``(blocks, features)``.
        measured_ms: Latencies of some of the blocks on the new device.
        cold: Whether the latencies are those of cold calls.
    """
    old_ms = {spec: _latency(estimate, cold=cold) for spec, estimate in old.items()}
    rows = [row for row, spec in enumerate(old) if spec in measured_ms]
    new, before = (np.array([ms[s] for s in measured_ms]) for ms in (measured_ms, old_ms))
    ratios, left_out = regress(features[rows], np.log(new / before), features)
    half_width = conformal_half_width(left_out, _COVERAGE)
    if half_width is None:  # too few blocks for a quantile: take the largest error
        half_width = float(np.abs(left_out).max())
    latencies = {}
    for spec, ratio in zip(old, np.exp(ratios), strict=True):
        middle_ms = old_ms[spec] * float(ratio)
        latencies[spec] = Interval(
            middle_ms, middle_ms * np.exp(-half_width), middle_ms * np.exp(half_width)
        )
    return PredictedBlocks(latencies, float(np.mean(np.abs(np.expm1(left_out)))), half_width)


def features_of(specs: Sequence[BlockSpec], known: dict[BlockSpec, Estimate]) -> Floats:
    """Features of every block, ``(blocks, features)``, scaled to mean 0 and deviation 1."""
    rows = []
    for spec in specs:
        cost, e = block_cost(spec), known[spec]
        assert e.cold_ms is not None
        sizes = (
            cost.macs,
            cost.weight_bytes,
            cost.activation_bytes,
            e.hot_ms,
            e.cold_ms / e.hot_ms,
            cost.macs / cost.activation_bytes,
        )
        flags = (
            getattr(spec, "kernel", 0),
            getattr(spec, "stride", 1),
            float(bool(getattr(spec, "se_channels", 0))),
            float(getattr(spec, "activation", "") == "relu"),
            float((block_width(spec) or 0) % 4 == 0),
        )
        rows.append([*np.log(np.maximum(sizes, _TINY)), *flags])
    table = np.array(rows)
    spread = table.std(axis=0)
    spread[spread == 0] = 1.0
    result: Floats = (table - table.mean(axis=0)) / spread
    return result


def spread_rows(features: Floats, count: int) -> list[int]:
    """Choose rows that differ: each next row is the farthest from those chosen so far."""
    chosen = [int(np.abs(features).sum(axis=1).argmin())]
    distance = np.full(len(features), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.abs(features - features[chosen[-1]]).sum(axis=1))
        chosen.append(int(distance.argmax()))
    return chosen


def regress(features: Floats, wanted: Floats, everywhere: Floats) -> tuple[Floats, Floats]:
    """Ridge regression with an intercept, at the penalty with the least leave-one-out error.

    Args:
        features: Features of the measured blocks, ``(measured, features)``.
        wanted: Values to predict, ``(measured,)``.
        everywhere: Features of all blocks, ``(blocks, features)``.

    Returns:
        Predicted values of all blocks, and the errors at measured blocks left out.
    """

    def predict(x: Floats, y: Floats, at: Floats, penalty: float) -> Floats:
        mean = y.mean()
        centre = x.mean(axis=0)
        gram = (x - centre).T @ (x - centre) + penalty * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, (x - centre).T @ (y - mean))
        result: Floats = mean + (at - centre) @ weights
        return result

    best: tuple[float, float, Floats] | None = None
    for penalty in _PENALTIES:
        errors = np.empty_like(wanted)
        for i in range(len(wanted)):
            rest = np.arange(len(wanted)) != i
            errors[i] = predict(features[rest], wanted[rest], features[i], penalty) - wanted[i]
        mean = float(np.abs(errors).mean())
        if best is None or mean < best[0]:
            best = (mean, penalty, errors)
    assert best is not None
    return predict(features, wanted, everywhere, best[1]), best[2]


def _latency(estimate: Estimate, *, cold: bool) -> float:
    return estimate.cold_or_hot_ms if cold else estimate.hot_ms
