"""From what was measured on blocks to what a network takes: the fitted price.

Glossary, for a network of blocks b:

    cold_b   low quantile of calls of block b after its weights left the cache, in ms
    hot_b    the same for calls one after another
    bytes    what the network's weights take in the caches, in bytes: of a block its fp32 weight
             bytes, half as much again where its width is not in the first class

    near_b   weight bytes of block b that stay in its core's own cache when b is called alone:
             the lesser of its bytes and half of the L2 cache
    slow_b   cold_b where the block's width is not in the runtime's first class of widths (see
             ``latbench.tables.alignment``), else 0

The price of a block is ``a cold_b + h hot_b + k + r near_b + s slow_b``; the latency of a network
is

    sum_b (a cold_b + h hot_b + k + r near_b + s slow_b) + C + sum_j e_j max(0, bytes - B_j)

A runtime computes widths outside of its first class by other kernels and in another layout; what
separates such a block alone from the same block inside a network is another number: ``s``. And
those kernels copy part of the weights while they compute, so that they count for more.
``k``, ``r`` and ``C`` stand for what separates a block alone from the same block inside a network:
each call has its own overhead and layout changes, which a network pays once, and its weights
near. The last sum stands for the caches that all cores share: a network whose weights exceed what
is left of them fetches the rest from memory at every inference, which no measurement of single
blocks can show. The more exceeds, the larger the part that is fetched, so the sum is convex in the
bytes; a latency is then the largest of a few sums over blocks, and stays easy to search: see
``PriceModel.pieces``.

All coefficients but k are bounded at zero, k at nine tenths of the cheapest block's price. Where
``a`` and ``h`` would both be zero, as networks differ by less than their noise, ``a`` is a tenth:
every block has a price.

The bounds are what makes sixteen networks enough for twelve coefficients: most end at their bound,
and a price is valid beyond the sizes that were measured. The coefficients are
fitted by least squares of relative errors on networks that were visited in the same shuffle as the
blocks; they differ by runtime, input size and machine state, so there is no default and a fit is
never carried over to another sweep.
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

MIN_NETWORKS = 6  # below, a network left out says nothing of the rest
COVERAGE = 0.9  # of the intervals
_KNEES = 6  # candidates for B_j, spread over the networks' sizes
_LARGEST_KNEE = 0.8  # quantile of the sizes: beyond, a slope would rest on too few networks
SLOW_COPIES = 0.5  # of a block's weights, where its width is not in the first class
_LEAST_PRICE = 0.1  # the cheapest block's price is at least this fraction of a cold + h hot
_LEAST_SCALE = 0.1  # a, where networks differ by less than their noise


@dataclass(frozen=True)
class NetworkSample:
    """What the fit knows of one measured network.

    Attributes:
        blocks: Number of blocks.
        cold_ms: Sum of the blocks' cold estimates.
        hot_ms: Sum of the blocks' hot estimates.
        footprint_bytes: What the network's weights take in the caches.
        near_bytes: Sum over blocks of the weight bytes that stay near.
        slow_ms: Sum of the cold estimates of blocks whose width is outside of the first class.
        latency_ms: The network's own hot estimate.
    """

    blocks: int
    cold_ms: float
    hot_ms: float
    footprint_bytes: float
    near_bytes: float
    slow_ms: float
    latency_ms: float


class Knee(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From ``above_bytes`` in the caches on, every further byte takes ``ms_per_byte``."""

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
        slow_copies: How often more the weights of a block in slower classes count.
        knees: B_j and e_j, by ascending B_j; slopes are positive.
        left_out_errors: predicted / measured - 1 of every network when it was left out of the
            fit.
    """

    cold_scale: float
    hot_scale: float
    block_ms: float
    network_ms: float
    near_ms_per_byte: float = 0.0
    near_limit_bytes: float = 0.0
    slow_scale: float = 0.0
    slow_copies: float = 0.0
    knees: tuple[Knee, ...] = ()
    left_out_errors: tuple[float, ...] = ()

    @property
    def networks(self) -> int:
        """Networks that the price was fitted on."""
        return len(self.left_out_errors)

    @property
    def loo_error(self) -> float | None:
        """Mean absolute error of networks left out of the fit; None without networks."""
        if not self.left_out_errors:
            return None
        return float(np.abs(self.left_out_errors).mean())

    def half_width(self) -> float | None:
        """Half width of the 90 % interval of a latency, relative; None for too few networks.

        The interval is conformal, from networks left out of the fit.
        """
        return conformal_half_width(self.left_out_errors, COVERAGE)

    def block_price_ms(
        self, cold_ms: float | None, hot_ms: float, *, weight_bytes: float, slow: bool
    ) -> float:
        """Price of one block in ms; without a cold latency the hot one stands for it."""
        cold_ms = hot_ms if cold_ms is None else cold_ms
        near_ms = min(weight_bytes, self.near_limit_bytes) * self.near_ms_per_byte
        scale = self.cold_scale + (self.slow_scale if slow else 0.0)
        return scale * cold_ms + self.hot_scale * hot_ms + self.block_ms + near_ms

    def footprint_bytes(self, weight_bytes: float, *, slow: bool) -> float:
        """What the weights of one block take in the caches."""
        return footprint_bytes(weight_bytes, slow=slow, copies=self.slow_copies)

    def network_latency_ms(self, prices_ms: float, footprint_bytes: float) -> float:
        """Latency of a network from the sums of its blocks' prices and footprints."""
        excess = (max(0.0, footprint_bytes - k.above_bytes) * k.ms_per_byte for k in self.knees)
        return prices_ms + self.network_ms + sum(excess)

    def pieces(self) -> tuple[tuple[float, float], ...]:
        """The latency as the largest of sums over blocks.

        Returns:
            Pairs (ms a byte, ms a network): the latency is the largest, over the pairs, of the
            sum of ``price + first * footprint`` over blocks, plus ``second``.
        """
        found = [(0.0, self.network_ms)]
        for knee in self.knees:
            slope, constant = found[-1]
            found.append((slope + knee.ms_per_byte, constant - knee.ms_per_byte * knee.above_bytes))
        return tuple(found)


def footprint_bytes(weight_bytes: float, *, slow: bool, copies: float = SLOW_COPIES) -> float:
    """What the weights of one block take in the caches, with so many copies in slower classes."""
    return weight_bytes * (1 + copies) if slow else weight_bytes


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
        least_cold_ms: Cold estimate of the fastest block to be priced; ``k`` is bounded so that
            even this block's price is positive.
        least_hot_ms: Its hot estimate.
        near_limit_bytes: What ``near_bytes`` of the samples were counted with.

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
    """Latency of a network whose blocks' estimates are already summed."""
    prices_ms = (
        model.cold_scale * sample.cold_ms
        + model.hot_scale * sample.hot_ms
        + model.block_ms * sample.blocks
        + model.near_ms_per_byte * sample.near_bytes
        + model.slow_scale * sample.slow_ms
    )
    return model.network_latency_ms(prices_ms, sample.footprint_bytes)


def _fit(samples: Sequence[NetworkSample], least: tuple[float, float]) -> PriceModel:
    blocks = np.array([s.blocks for s in samples], dtype=np.float64)
    footprint = np.array([s.footprint_bytes for s in samples], dtype=np.float64)
    latency_ms = np.array([s.latency_ms for s in samples])
    lowest_k = [(_LEAST_PRICE - 1) * x for x in least]  # times a and times h
    knees = np.quantile(footprint, np.linspace(0.0, _LARGEST_KNEE, _KNEES))
    columns = [
        np.array([s.cold_ms for s in samples]) + lowest_k[0] * blocks,
        np.array([s.hot_ms for s in samples]) + lowest_k[1] * blocks,
        blocks,
        np.ones_like(blocks),
        np.array([s.near_bytes for s in samples]),
        np.array([s.slow_ms for s in samples]),
        *(np.maximum(0.0, footprint - knee) for knee in knees),
    ]
    relative = np.stack(columns, axis=1) / latency_ms[:, None]
    wanted = np.ones_like(latency_ms)
    found = nonnegative_least_squares(relative, wanted)
    if not found[:2].any():  # else blocks would cost nothing
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
        knees=tuple(Knee(float(b), e) for b, e in zip(knees, slopes, strict=True) if e > 0),
    )


def nonnegative_least_squares(matrix: Floats, wanted: Floats) -> Floats:
    """Minimise ``|matrix x - wanted|`` over x >= 0 by the active-set method.

    Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23. scipy has it too, but is
    no dependency of measuring.

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
