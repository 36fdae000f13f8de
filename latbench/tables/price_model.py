"""The price model: it predicts the latency of a network from measurements of its blocks.

Glossary, for a network of blocks b:

    cold_b     low quantile of calls of block b after its weights left the cache, in ms
    hot_b      the same for calls one after another
    near_b     weight bytes of block b that stay in the cache of its core when b is called alone:
               the smaller of its bytes and half of the L2 cache
    bytes_b    weight bytes of block b, in fp32
    footprint  cache space that a network needs between two calls, in bytes:
               sum_b (bytes_b + f hot_b), where f is the fill rate

The price of a block is ``a cold_b + h hot_b + k + r near_b``; the latency of a network is

    sum_b (a cold_b + h hot_b + k + r near_b) + C + sum_j e_j max(0, footprint - B_j)

``k``, ``r`` and ``C`` correct for the difference between a block that is called alone and the same
block inside a network. A block that is called alone pays for the overhead of the call and for
layout changes, which a network pays once, and its weights stay in the cache near its core.

The last sum models the caches that all cores share. While a network runs, everything else on the
machine fills these caches at some rate. Weights survive until the next call only if the weights
of the network, and what the others bring in meanwhile, fit together; what does not survive is
fetched from memory. No measurement of single blocks can show this. The fetched share grows with the
excess, so the sum is convex in the footprint. A latency is then the largest of a few sums over
blocks, which is easy to search: see ``PriceModel.pieces``.

The fill rate f is the one of ``FILL_RATES`` whose errors at networks left out of the fit are
smallest. 0 is the case of a cache that nobody else uses.

All coefficients except ``k`` are at least zero; ``k`` may take at most nine tenths off the price of
the cheapest block. If the networks differ by less than their noise, the fit may set both ``a`` and
``h`` to zero; ``a`` is then raised to a tenth, so that every block has a positive price.

These bounds make sixteen networks enough for eleven coefficients: most coefficients end at their
bound, and prices stay valid beyond the sizes that were measured. The coefficients minimise the
squared relative errors on networks that were visited in the same shuffle as the blocks. They depend
on the runtime, the input size and the state of the machine, so there is no default, and a fit is
never reused for another sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.errors import InvalidValueError
from latbench.measure.statistics import conformal_half_width

Floats = NDArray[np.float64]

MIN_NETWORKS = 6  # with fewer, the error at a network left out of the fit means nothing
COVERAGE = 0.9  # share of latencies that lie inside their intervals
FILL_RATES = (0.0, 2e6, 4e6, 6e6, 8e6, 12e6, 16e6)  # candidates for f, bytes a ms
_BREAKPOINTS = 6  # candidates for B_j, spread over the networks' footprints
_LARGEST_BREAKPOINT = 0.8  # quantile of the footprints: above it too few remain for a slope
_LEAST_PRICE = 0.1  # the cheapest block's price is at least this fraction of a cold + h hot
_ZERO = 1e-10  # what counts as 0 for a coefficient of columns of size 1
_LEAST_SCALE = 0.1  # a, where networks differ by less than their noise


@dataclass(frozen=True)
class NetworkSample:
    """One measured network, as input to the fit.

    Attributes:
        blocks: Number of blocks.
        cold_ms: Sum of the blocks' cold estimates.
        hot_ms: Sum of the blocks' hot estimates.
        weight_bytes: Bytes of the network's weights.
        near_bytes: Sum over blocks of the weight bytes that stay in the core's own cache.
        latency_ms: The network's own hot estimate.
    """

    blocks: int
    cold_ms: float
    hot_ms: float
    weight_bytes: float
    near_bytes: float
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
        fill_bytes_per_ms: f, the rate at which others fill the shared caches.
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
    fill_bytes_per_ms: float = 0.0
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

    def block_price_ms(self, cold_ms: float | None, hot_ms: float, *, weight_bytes: float) -> float:
        """Price of one block in ms; the hot latency replaces a missing cold one."""
        cold_ms = hot_ms if cold_ms is None else cold_ms
        near_ms = min(weight_bytes, self.near_limit_bytes) * self.near_ms_per_byte
        return self.cold_scale * cold_ms + self.hot_scale * hot_ms + self.block_ms + near_ms

    def footprint_bytes(self, weight_bytes: float, hot_ms: float) -> float:
        """Cache space that one block, or a whole network, needs between two calls."""
        return weight_bytes + self.fill_bytes_per_ms * hot_ms

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
        least_hot_ms: The same for hot estimates, also of another block.
        near_limit_bytes: Limit that ``near_bytes`` of the samples was counted with.

    Raises:
        InvalidValueError: Fewer than ``MIN_NETWORKS`` networks.
    """
    if len(samples) < MIN_NETWORKS:
        raise InvalidValueError(
            f"{len(samples)} calibration networks are too few to fit prices: "
            f"measure {MIN_NETWORKS} or more"
        )
    fits = [_Fit(samples, fill, (least_cold_ms, least_hot_ms)) for fill in FILL_RATES]
    errors = np.stack([fit.left_out_errors() for fit in fits])  # (rates, networks, networks)
    networks = range(len(samples))
    alone = errors[:, networks, networks]
    chosen = int(np.abs(alone).mean(axis=1).argmin())
    # the rate for a network that is left out is chosen without it
    by_others = np.abs(errors)
    by_others[:, networks, networks] = 0.0
    nested = alone[by_others.sum(axis=1).argmin(axis=0), networks]
    return msgspec.structs.replace(
        fits[chosen].model(),
        near_limit_bytes=near_limit_bytes,
        left_out_errors=tuple(nested.tolist()),
    )


class _Fit:
    """The fit of all coefficients but the fill rate, on all networks or without some of them.

    The columns are relative to the latencies, so that a row times the coefficients is predicted /
    measured. Leaving a network out takes its row out of the normal equations.
    """

    def __init__(
        self, samples: Sequence[NetworkSample], fill: float, least: tuple[float, float]
    ) -> None:
        blocks = np.array([s.blocks for s in samples], dtype=np.float64)
        footprint = np.array([s.weight_bytes + fill * s.hot_ms for s in samples])
        latency_ms = np.array([s.latency_ms for s in samples])
        self.fill = fill
        self.lowest_k = [(_LEAST_PRICE - 1) * x for x in least]  # times a and times h
        self.breakpoints = np.quantile(
            footprint, np.linspace(0.0, _LARGEST_BREAKPOINT, _BREAKPOINTS)
        )
        columns = [
            np.array([s.cold_ms for s in samples]) + self.lowest_k[0] * blocks,
            np.array([s.hot_ms for s in samples]) + self.lowest_k[1] * blocks,
            blocks,
            np.ones_like(blocks),
            np.array([s.near_bytes for s in samples]),
            *(np.maximum(0.0, footprint - bytes_) for bytes_ in self.breakpoints),
        ]
        rows = np.stack(columns, axis=1) / latency_ms[:, None]
        self.size = np.abs(rows).max(axis=0)  # bytes and ms differ by many orders of magnitude
        self.size[self.size == 0] = 1.0
        self.rows = rows / self.size
        self.gram, self.moment = self.rows.T @ self.rows, self.rows.sum(axis=0)
        self.positive = nonnegative_solution(self.gram, self.moment) > 0

    def _solve(self, *left_out: int) -> Floats:
        rows = self.rows[list(left_out)]
        gram, moment = self.gram - rows.T @ rows, self.moment - rows.sum(axis=0)
        found = nonnegative_solution(gram, moment, self.positive)
        if not found[:2].any():  # without this, blocks would cost nothing
            least = _LEAST_SCALE * self.size[0]
            found = nonnegative_solution(gram, moment - least * gram[0])
            found[0] += least
        return found

    def left_out_errors(self) -> Floats:
        """Relative errors ``(networks, networks)``: at the first, fitted without both."""
        count = len(self.rows)
        errors = np.zeros((count, count))
        for one, other in combinations_with_replacement(range(count), 2):
            found = self._solve(*{one, other})
            errors[one, other] = self.rows[one] @ found - 1
            errors[other, one] = self.rows[other] @ found - 1
        return errors

    def model(self) -> PriceModel:
        """The price model, fitted on all networks."""
        a, h, above_lowest, c, r, *slopes = (self._solve() / self.size).tolist()
        return PriceModel(
            cold_scale=a,
            hot_scale=h,
            block_ms=above_lowest + self.lowest_k[0] * a + self.lowest_k[1] * h,
            network_ms=c,
            near_ms_per_byte=r,
            fill_bytes_per_ms=self.fill,
            knees=tuple(
                Breakpoint(bytes_, slope)
                for bytes_, slope in zip(self.breakpoints.tolist(), slopes, strict=True)
                if slope > 0
            ),
        )


def nonnegative_solution(
    gram: Floats, moment: Floats, near: NDArray[np.bool_] | None = None
) -> Floats:
    """Minimise ``|A x - y|`` over x >= 0 by the active-set method, given the normal equations.

    Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23. scipy has the
    same method, but measuring must not depend on scipy.

    Args:
        gram: ``A^T A``, ``(columns, columns)``. The columns of A have similar sizes.
        moment: ``A^T y``, ``(columns,)``.
        near: Which x a similar problem has above 0, ``(columns,)``; it saves most of the steps.

    Returns:
        x, ``(columns,)``.
    """
    tolerance = 1e-10 * max(1.0, np.abs(moment).max())
    x = np.zeros(len(moment))
    free = np.zeros(len(x), dtype=bool)
    if near is not None and near.any():
        start = _least_squares(gram, moment, near)
        if start[near].min() > _ZERO:
            x, free = start, near.copy()
    for _ in range(10 * len(x)):
        gradient = moment - gram @ x
        gradient[free] = -np.inf
        if free.all() or gradient.max() <= tolerance:
            break
        free[gradient.argmax()] = True
        while free.any():
            best = _least_squares(gram, moment, free)
            blocking = free & (best <= 0)
            if not blocking.any():
                x = best
                break
            step = (x[blocking] / np.maximum(x[blocking] - best[blocking], 1e-300)).min()
            x = x + step * (best - x)
            free &= x > _ZERO
            x[~free] = 0.0
    return x


def _least_squares(gram: Floats, moment: Floats, free: NDArray[np.bool_]) -> Floats:
    """The least-squares solution in which only some x differ from 0."""
    x = np.zeros(len(moment))
    x[free] = np.linalg.lstsq(gram[free][:, free], moment[free], rcond=None)[0]
    return x
