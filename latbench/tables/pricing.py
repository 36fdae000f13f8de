"""From what was measured on blocks to what a network takes: the fitted price.

Glossary, for a network of n blocks b:

    cold_b   low quantile of calls of block b after its weights left the cache, in ms
    hot_b    the same for calls one after another
    bytes    fp32 weight bytes of the whole network
    x_b      cold_b or hot_b, whichever predicts better

The price of a block is ``a x_b + k``; the latency of a network is

    sum_b (a x_b + k) + C + e max(0, bytes - B)

``a``, ``k`` and ``C`` stand for what separates a block alone from the same block inside a
network: each call has its own overhead and layout changes, which a network pays once. The last
term stands for the cache that all cores share: a network whose weights exceed what is left of it
(B bytes) fetches the rest from memory at every inference, which no measurement of single blocks
can show. Cross-validation drops the term (e = 0) where it does not help. It is the larger of two
sums over blocks, and so stays easy to search: see ``PriceModel.pieces``.

The coefficients are fitted by least squares of relative errors on networks that were visited in
the same shuffle as the blocks; they differ by runtime, input size and machine state even in
sign, so there is no default and a fit is never carried over to another sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.errors import InvalidValueError

Floats = NDArray[np.float64]
Basis = Literal["cold", "hot"]

MIN_NETWORKS = 6  # below, four coefficients and a held-out network leave nothing to judge by
_KNEES = 8  # candidates for B, spread over the networks' sizes
_SIMPLER = 0.9  # a more complex form must cut the cross-validated error to this fraction
_LEAST_PRICE = 0.1  # the cheapest block's price is at least this fraction of a x_b


@dataclass(frozen=True)
class NetworkSample:
    """What the fit knows of one measured network.

    Attributes:
        blocks: Number of blocks.
        cold_ms: Sum of the blocks' cold estimates.
        hot_ms: Sum of the blocks' hot estimates.
        weight_bytes: fp32 weight bytes of the network.
        latency_ms: The network's own hot estimate.
    """

    blocks: int
    cold_ms: float
    hot_ms: float
    weight_bytes: float
    latency_ms: float


class PriceModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Coefficients of the fitted price, as stored beside the measurements.

    Attributes:
        basis: Which estimate of a block is x_b.
        scale: a, dimensionless.
        block_ms: k, ms a block.
        network_ms: C, ms a network.
        excess_ms_per_byte: e, ms for each weight byte beyond ``cache_bytes``; never negative.
        cache_bytes: B.
        loo_error: Mean absolute error of networks left out of the fit and of the choice of its
            form (nested leave-one-out), a fraction.
        networks: Networks it was fitted on.
    """

    basis: Basis
    scale: float
    block_ms: float
    network_ms: float
    excess_ms_per_byte: float = 0.0
    cache_bytes: float = 0.0
    loo_error: float | None = None
    networks: int = 0

    def block_price_ms(self, cold_ms: float, hot_ms: float) -> float:
        """Price of one block in ms."""
        return self.scale * (cold_ms if self.basis == "cold" else hot_ms) + self.block_ms

    def network_latency_ms(self, prices_ms: float, weight_bytes: float) -> float:
        """Latency of a network from the sum of its blocks' prices and its weight bytes."""
        excess = max(0.0, weight_bytes - self.cache_bytes) * self.excess_ms_per_byte
        return prices_ms + self.network_ms + excess

    def pieces(self) -> tuple[tuple[float, float], ...]:
        """The latency as the largest of sums over blocks.

        Returns:
            Pairs (ms a weight byte, ms a network): the latency is the largest, over the pairs,
            of the sum of ``price + first * weight bytes`` over blocks, plus ``second``.
        """
        flat = (0.0, self.network_ms)
        if self.excess_ms_per_byte == 0.0:
            return (flat,)
        slope = self.excess_ms_per_byte
        return (flat, (slope, self.network_ms - slope * self.cache_bytes))


@dataclass(frozen=True)
class _Form:
    """A form of the price: its basis, and the knee B in bytes, or None without the term."""

    basis: Basis
    knee: float | None


def fit_price(
    samples: Sequence[NetworkSample], *, least_cold_ms: float = 0.0, least_hot_ms: float = 0.0
) -> PriceModel:
    """Fit the price on measured networks and choose its form by cross-validation.

    Args:
        samples: The measured networks.
        least_cold_ms: Cold estimate of the fastest block to be priced; ``k`` is bounded so that
            even this block's price is positive.
        least_hot_ms: Its hot estimate.

    Raises:
        InvalidValueError: Fewer than ``MIN_NETWORKS`` networks.
    """
    if len(samples) < MIN_NETWORKS:
        raise InvalidValueError(
            f"{len(samples)} calibration networks are too few to fit prices: "
            f"measure {MIN_NETWORKS} or more"
        )
    data = _Data.of(samples, {"cold": least_cold_ms, "hot": least_hot_ms})
    form = _choose(data)
    held_out = [_held_out_error(data, i, choose=True) for i in range(len(samples))]
    a, k, c, e = _solve(data, form)
    return PriceModel(
        basis=form.basis,
        scale=a,
        block_ms=k,
        network_ms=c,
        excess_ms_per_byte=e,
        cache_bytes=form.knee if form.knee is not None and e > 0 else 0.0,
        loo_error=float(np.mean(held_out)),
        networks=len(samples),
    )


@dataclass(frozen=True)
class _Data:
    blocks: Floats
    sums: dict[Basis, Floats]
    weight_bytes: Floats
    latency: Floats
    least: dict[Basis, float]  # x_b of the fastest block to be priced

    @classmethod
    def of(cls, samples: Sequence[NetworkSample], least: dict[Basis, float]) -> _Data:
        return cls(
            np.array([s.blocks for s in samples], dtype=np.float64),
            {
                "cold": np.array([s.cold_ms for s in samples]),
                "hot": np.array([s.hot_ms for s in samples]),
            },
            np.array([s.weight_bytes for s in samples], dtype=np.float64),
            np.array([s.latency_ms for s in samples]),
            least,
        )

    def pick(self, rows: NDArray[np.intp]) -> _Data:
        return _Data(
            self.blocks[rows],
            {basis: values[rows] for basis, values in self.sums.items()},
            self.weight_bytes[rows],
            self.latency[rows],
            self.least,
        )

    def without(self, row: int) -> _Data:
        return self.pick(np.flatnonzero(np.arange(len(self.latency)) != row))

    def features(self, form: _Form) -> dict[str, Floats]:
        """Columns of the least-squares problem by coefficient, each ``(networks,)``."""
        columns = {"a": self.sums[form.basis], "k": self.blocks, "C": np.ones_like(self.latency)}
        if form.knee is not None:
            columns["e"] = np.maximum(0.0, self.weight_bytes - form.knee)
        return columns


def _solve(data: _Data, form: _Form) -> tuple[float, float, float, float]:
    """Coefficients a, k, C, e of least squares of the relative error, with prices above zero."""
    columns = data.features(form)
    found = _least_squares(columns, data.latency)
    lowest_k = (_LEAST_PRICE - 1) * data.least[form.basis]  # times a
    if found["k"] < lowest_k * found["a"]:
        bound = {"a": columns["a"] + lowest_k * columns.pop("k")} | {
            name: column for name, column in columns.items() if name != "a"
        }
        found = _least_squares(bound, data.latency)
        found["k"] = lowest_k * found["a"]
    if found.get("e", 0.0) < 0:  # more weights never make a network faster: this is noise
        return _solve(data, _Form(form.basis, None))
    return found["a"], found["k"], found["C"], found.get("e", 0.0)


def _least_squares(columns: dict[str, Floats], latency: Floats) -> dict[str, float]:
    relative = np.stack(list(columns.values()), axis=1) / latency[:, None]
    scale = np.abs(relative).max(axis=0)  # bytes and ms differ by many orders of magnitude
    scale[scale == 0] = 1.0
    solution = np.linalg.lstsq(relative / scale, np.ones_like(latency), rcond=None)[0] / scale
    return dict(zip(columns, map(float, solution), strict=True))


def _held_out_error(data: _Data, row: int, *, form: _Form | None = None, choose: bool) -> float:
    rest = data.without(row)
    form = _choose(rest) if choose or form is None else form
    a, k, c, e = _solve(rest, form)
    one = data.pick(np.array([row]))
    excess = np.maximum(0.0, one.weight_bytes - (form.knee or 0.0))
    predicted = a * one.sums[form.basis] + k * one.blocks + c + e * excess
    return float(np.abs(predicted / one.latency - 1)[0])


def _choose(data: _Data) -> _Form:
    """The form of smallest leave-one-out error; a knee must earn its place."""

    def error(form: _Form) -> float:
        rows = range(len(data.latency))
        return float(np.mean([_held_out_error(data, i, form=form, choose=False) for i in rows]))

    plain = {form: error(form) for form in (_Form("cold", None), _Form("hot", None))}
    best = min(plain, key=plain.__getitem__)
    inner = np.quantile(data.weight_bytes, np.linspace(0.0, 0.8, _KNEES))
    kneed = {form: error(form) for form in (_Form(best.basis, float(knee)) for knee in inner)}
    candidate = min(kneed, key=kneed.__getitem__)
    return candidate if kneed[candidate] < _SIMPLER * plain[best] else best
