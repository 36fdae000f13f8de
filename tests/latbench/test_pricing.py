"""The fitted price: it finds what made the data, and stays a price."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.errors import InvalidValueError
from latbench.tables.pricing import NetworkSample, PriceModel, fit_price


def _samples(
    count: int, *, a: float, k: float, c: float, e: float = 0.0, knee: float = 0.0, noise: float = 0
) -> list[NetworkSample]:
    rng = np.random.default_rng(3)
    made = []
    for _ in range(count):
        blocks = int(rng.integers(8, 22))
        cold = float(rng.uniform(0.2, 0.6)) * blocks
        size = float(rng.uniform(4e6, 24e6))
        latency = a * cold + k * blocks + c + e * max(0.0, size - knee)
        latency *= 1 + noise * float(rng.standard_normal())
        made.append(NetworkSample(blocks, cold, cold * float(rng.uniform(0.7, 0.9)), size, latency))
    return made


def test_coefficients_are_found() -> None:
    model = fit_price(_samples(12, a=0.9, k=-0.01, c=0.3), least_cold_ms=0.2, least_hot_ms=0.1)
    assert model.basis == "cold"
    assert (model.scale, model.block_ms, model.network_ms) == pytest.approx((0.9, -0.01, 0.3))
    assert model.loo_error == pytest.approx(0, abs=1e-9)


def test_the_cache_term_is_found_where_it_is_and_dropped_where_it_is_not() -> None:
    with_term = fit_price(_samples(24, a=1.0, k=0.0, c=0.2, e=1e-7, knee=12e6, noise=0.003))
    assert with_term.excess_ms_per_byte == pytest.approx(1e-7, rel=0.25)
    samples = _samples(24, a=1.0, k=0.0, c=0.2, noise=0.003)
    without = fit_price(samples)
    largest_ms = without.excess_ms_per_byte * (24e6 - without.cache_bytes)
    assert largest_ms < 0.01 * np.median([sample.latency_ms for sample in samples])


def test_the_reported_error_is_that_of_fresh_networks() -> None:
    samples = _samples(60, a=1.0, k=0.01, c=0.2, noise=0.02)
    model = fit_price(samples[:20])
    fresh = [
        abs(
            model.network_latency_ms(
                model.scale * (s.cold_ms if model.basis == "cold" else s.hot_ms)
                + model.block_ms * s.blocks,
                s.weight_bytes,
            )
            / s.latency_ms
            - 1
        )
        for s in samples[20:]
    ]
    assert model.loo_error == pytest.approx(float(np.mean(fresh)), abs=0.01)


def test_the_cheapest_block_keeps_a_positive_price() -> None:
    """A negative overhead a block must not make small blocks cost less than nothing."""
    model = fit_price(_samples(12, a=1.0, k=-0.05, c=0.3), least_cold_ms=0.02, least_hot_ms=0.02)
    assert model.block_price_ms(0.02, 0.02) > 0


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="5 calibration networks"):
        fit_price(_samples(5, a=1, k=0, c=0))


@given(
    prices=st.lists(st.floats(0.001, 1, allow_subnormal=False), min_size=1, max_size=20),
    sizes=st.lists(st.floats(1e3, 5e6, allow_subnormal=False), min_size=20, max_size=20),
    slope=st.floats(0, 1e-6, allow_subnormal=False),
    knee=st.floats(0, 2e7, allow_subnormal=False),
)
def test_a_latency_is_the_largest_of_its_pieces(
    prices: list[float], sizes: list[float], slope: float, knee: float
) -> None:
    model = PriceModel("hot", 1.0, 0.0, 0.3, slope, knee)
    total = sum(sizes[: len(prices)])
    pieces = [
        sum(p + s * w for p, w in zip(prices, sizes, strict=False)) + c for s, c in model.pieces()
    ]
    assert model.network_latency_ms(sum(prices), total) == pytest.approx(max(pieces))
