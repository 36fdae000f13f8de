"""The price model: it predicts the latency of a network from measurements of its blocks.

Glossary, for a network of blocks b:

    cold_b   low quantile of calls of block b after its weights left the cache, in ms
    hot_b    the same for calls one after another
    bytes    cache space of the network's weights, in bytes: the sum of the blocks' fp32 weight
             bytes, where a block with a misaligned width counts one and a half times

    near_b   weight bytes of block b that stay in the cache of its core when b is called alone:
             the smaller of its bytes and half of the L2 cache
    slow_b   cold_b if the block's width is misaligned, that is, outside the runtime's first
             class of widths (see ``latbench.tables.alignment``), else 0

The price of a block is ``a cold_b + h hot_b + k + r near_b + s slow_b``; the latency of a network
is

    sum_b (a cold_b + h hot_b + k + r near_b + s slow_b) + C + sum_j e_j max(0, bytes - B_j)

``k``, ``r`` and ``C`` correct for the difference between a block that is called alone and the same
block inside a network. A block that is called alone pays for the overhead of the call and for
layout changes, which a network pays once, and its weights stay in the cache near its core.

``s`` is a correction for misaligned widths. A runtime computes them with other kernels and in
another layout, so the difference between alone and inside a network is another one. These kernels
also copy part of the weights while they compute, so the weights of such a block count for more.

The last sum models the caches that all cores share. If the weights of a network do not fit into
these caches, the rest is fetched from memory at every inference. No measurement of single blocks
can show this. The fetched share grows with the excess, so the sum is convex in the bytes. A latency
is then the largest of a few sums over blocks, which is easy to search: see ``PriceModel.pieces``.

All coefficients except ``k`` are at least zero; ``k`` may take at most nine tenths off the price of
the cheapest block. If the networks differ by less than their noise, the fit may set both ``a`` and
``h`` to zero; ``a`` is then raised to a tenth, so that every block has a positive price.

These bounds make sixteen networks enough for twelve coefficients: most coefficients end at their
bound, and prices stay valid beyond the sizes that were measured. The coefficients minimise the
squared relative errors on networks that were visited in the same shuffle as the blocks. They depend
on the runtime, the input size and the state of the machine, so there is no default, and a fit is
never reused for another sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.errors import InvalidValueError
from latbench.measure.statistics import conformal_half_width

Floats = NDArray[np.float64]

MIN_NETWORKS = 6  # with fewer, the error at a network left out of the fit means nothing
COVERAGE = 0.9  # share of latencies that lie inside their intervals
_BREAKPOINTS = 6  # candidates for B_j, spread over the networks' sizes
_LARGEST_BREAKPOINT = 0.8  # quantile of the sizes: above it too few networks remain for a slope
SLOW_COPIES = 0.5  # share of its weights that a block with a misaligned width has twice
_LEAST_PRICE = 0.1  # the cheapest block's price is at least this fraction of a cold + h hot
_LEAST_SCALE = 0.1  # a, where networks differ by less than their noise


@dataclass(frozen=True)
class NetworkSample:
    """One measured network, as input to the fit.

    Attributes:
        blocks: Number of blocks.
        cold_ms: Sum of the blocks' cold estimates.
        hot_ms: Sum of the blocks' hot estimates.
        footprint_bytes: Cache space of the network's weights.
        near_bytes: Sum over blocks of the weight bytes that stay in the core's own cache.
        misaligned_ms: Sum of the cold estimates of blocks with a misaligned width.
        latency_ms: The network's own hot estimate.
    """

    blocks: int
    cold_ms: float
    hot_ms: float
    footprint_bytes: float
    near_bytes: float
    misaligned_ms: float
    latency_ms: float


class Breakpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every byte of cache space above ``above_bytes`` costs ``ms_per_byte``."""

    above_bytes: float
    ms_per_byte: float


class PriceModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Coefficients of the fitted price, as stored beside the measurements.

    Attributes:
        cold_scale: a, dimensionless.
        hot_scale: h, dimensionless.
        block_ms: k, ms a block.
        network_ms: C, ms a network.
        near_ms_per_byte: r, ms a byte.
        near_limit_bytes: Half of the L2 cache.
        slow_scale: s, dimensionless.
        slow_copies: Extra share that the weights of a block with a misaligned width count.
        knees: Breakpoints (B_j, e_j), by ascending B_j; all slopes are positive.
        left_out_errors: Relative error (predicted / measured - 1) of every network when it was
            left out of the fit.
    """

    cold_scale: float
    hot_scale: float
    block_ms: float
    network_ms: float
    near_ms_per_byte: float = 0.0
    near_limit_bytes: float = 0.0
    slow_scale: float = 0.0
    slow_copies: float = 0.0
    knees: tuple[Breakpoint, ...] = ()
    left_out_errors: tuple[float, ...] = ()

    @property
    def networks(self) -> int:
        """Number of networks that the price was fitted on."""
        return len(self.left_out_errors)

    @property
    def loo_error(self) -> float | None:
        """Mean absolute error of networks left out of the fit; None without networks."""
        if not self.left_out_errors:
            return None
        return float(np.abs(self.left_out_errors).mean())

    def half_width(self) -> float | None:
        """Relative half width of the 90 % interval of a latency; None for too few networks.

        The interval is leave-one-out conformal: it comes from the errors at networks that were
        left out of the fit.
        """
        return conformal_half_width(self.left_out_errors, COVERAGE)

    def block_price_ms(
        self, cold_ms: float | None, hot_ms: float, *, weight_bytes: float, misaligned: bool
    ) -> float:
        """Price of one block in ms; the hot latency replaces a missing cold one."""
        cold_ms = hot_ms if cold_ms is None else cold_ms
        near_ms = min(weight_bytes, self.near_limit_bytes) * self.near_ms_per_byte
        scale = self.cold_scale + (self.slow_scale if misaligned else 0.0)
        return scale * cold_ms + self.hot_scale * hot_ms + self.block_ms + near_ms

    def footprint_bytes(self, weight_bytes: float, *, misaligned: bool) -> float:
        """Cache space of the weights of one block, in bytes."""
        return footprint_bytes(weight_bytes, misaligned=misaligned, copies=self.slow_copies)

    def network_latency_ms(self, prices_ms: float, footprint_bytes: float) -> float:
        """Latency of a network from the sums of its blocks' prices and footprints."""
        excess = (max(0.0, footprint_bytes - k.above_bytes) * k.ms_per_byte for k in self.knees)
        return prices_ms + self.network_ms + sum(excess)

    def pieces(self) -> tuple[tuple[float, float], ...]:
        """Coefficients of the sums over blocks whose maximum is the latency.

        Returns:
            Pairs (ms a byte, ms a network). Each pair gives the sum of ``price + first *
            footprint`` over all blocks, plus ``second``. The latency is the largest of these.
        """
        found = [(0.0, self.network_ms)]
        for point in self.knees:
            slope, constant = found[-1]
            excess_ms = point.ms_per_byte * point.above_bytes
            found.append((slope + point.ms_per_byte, constant - excess_ms))
        return tuple(found)


def footprint_bytes(weight_bytes: float, *, misaligned: bool, copies: float = SLOW_COPIES) -> float:
    """Cache space of the weights of one block; ``copies`` is added for misaligned widths."""
    return weight_bytes * (1 + copies) if misaligned else weight_bytes


def fit_price(
    samples: Sequence[NetworkSample],
    *,
    least_cold_ms: float = 0.0,
    least_hot_ms: float = 0.0,
    near_limit_bytes: float = 0.0,
) -> PriceModel:
    """Fit the price on measured networks.

    Args:
        samples: The measured networks.
        least_cold_ms: Cold estimate of the fastest block that is priced. ``k`` is bounded so that
            the price of this block is positive.
        least_hot_ms: Hot estimate of the same block.
        near_limit_bytes: Limit that ``near_bytes`` of the samples was counted with.

    Raises:
        InvalidValueError: Fewer than ``MIN_NETWORKS`` networks.
    """
    if len(samples) < MIN_NETWORKS:
        raise InvalidValueError(
            f"{len(samples)} calibration networks are too few to fit prices: "
            f"measure {MIN_NETWORKS} or more"
        )
    least = (least_cold_ms, least_hot_ms)
    errors = []
    for index, sample in enumerate(samples):
        model = _fit([*samples[:index], *samples[index + 1 :]], least)
        errors.append(float(predict_sample_ms(model, sample) / sample.latency_ms - 1))
    return msgspec.structs.replace(
        _fit(samples, least), near_limit_bytes=near_limit_bytes, left_out_errors=tuple(errors)
    )


def predict_sample_ms(model: PriceModel, sample: NetworkSample) -> float:
    """Predicted latency of a network, from the sums over its blocks."""
    prices_ms = (
        model.cold_scale * sample.cold_ms
        + model.hot_scale * sample.hot_ms
        + model.block_ms * sample.blocks
        + model.near_ms_per_byte * sample.near_bytes
        + model.slow_scale * sample.misaligned_ms
    )
    return model.network_latency_ms(prices_ms, sample.footprint_bytes)


def _fit(samples: Sequence[NetworkSample], least: tuple[float, float]) -> PriceModel:
    blocks = np.array([s.blocks for s in samples], dtype=np.float64)
    footprint = np.array([s.footprint_bytes for s in samples], dtype=np.float64)
    latency_ms = np.array([s.latency_ms for s in samples])
    lowest_k = [(_LEAST_PRICE - 1) * x for x in least]  # times a and times h
    breakpoints = np.quantile(footprint, np.linspace(0.0, _LARGEST_BREAKPOINT, _BREAKPOINTS))
    columns = [
        np.array([s.cold_ms for s in samples]) + lowest_k[0] * blocks,
        np.array([s.hot_ms for s in samples]) + lowest_k[1] * blocks,
        blocks,
        np.ones_like(blocks),
        np.array([s.near_bytes for s in samples]),
        np.array([s.misaligned_ms for s in samples]),
        *(np.maximum(0.0, footprint - bytes_) for bytes_ in breakpoints),
    ]
    relative = np.stack(columns, axis=1) / latency_ms[:, None]
    wanted = np.ones_like(latency_ms)
    found = nonnegative_least_squares(relative, wanted)
    if not found[:2].any():  # without this, blocks would cost nothing
        found = nonnegative_least_squares(relative, wanted - _LEAST_SCALE * relative[:, 0])
        found[0] += _LEAST_SCALE
    a, h, above_lowest, c, r, s, *slopes = found.tolist()
    return PriceModel(
        cold_scale=a,
        hot_scale=h,
        block_ms=above_lowest + lowest_k[0] * a + lowest_k[1] * h,
        network_ms=c,
        near_ms_per_byte=r,
        slow_scale=s,
        slow_copies=SLOW_COPIES,
        knees=tuple(
            Breakpoint(float(b), e) for b, e in zip(breakpoints, slopes, strict=True) if e > 0
        ),
    )


def nonnegative_least_squares(matrix: Floats, wanted: Floats) -> Floats:
    """Minimise ``|matrix x - wanted|`` over x >= 0 by the active-set method.

    Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23. scipy has the
    same method, but measuring must not depend on scipy.

    Args:
        matrix: ``(rows, columns)``.
        wanted: ``(rows,)``.

    Returns:
        x, ``(columns,)``.
    """
    size = np.abs(matrix).max(axis=0)  # bytes and ms differ by many orders of magnitude
    size[size == 0] = 1.0
    scaled = matrix / size
    tolerance = 1e-10 * len(wanted)
    x = np.zeros(scaled.shape[1])
    free = np.zeros(len(x), dtype=bool)
    for _ in range(10 * len(x)):
        gradient = scaled.T @ (wanted - scaled @ x)
        gradient[free] = -np.inf
        if free.all() or gradient.max() <= tolerance:
            break
        free[gradient.argmax()] = True
        while free.any():
            best = np.zeros_like(x)
            best[free] = np.linalg.lstsq(scaled[:, free], wanted, rcond=None)[0]
            blocking = free & (best <= 0)
            if not blocking.any():
                x = best
                break
            step = (x[blocking] / np.maximum(x[blocking] - best[blocking], 1e-300)).min()
            x = x + step * (best - x)
            free &= x > tolerance
            x[~free] = 0.0
    result: Floats = x / size
    return result
