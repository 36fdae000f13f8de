"""The fitted price: it finds what made the data, and stays a price."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_fields

from latbench.errors import InvalidValueError
from latbench.tables import LatencyTable, StoredFit, TableStore
from latbench.tables.price_model import (
    Breakpoint,
    NetworkSample,
    PriceModel,
    fit_price,
    nonnegative_least_squares,
    predict_sample_ms,
)
from nas.spaces import SearchSpace


def _samples(
    count: int, *, a: float, k: float, c: float, e: float = 0.0, bend: float = 0.0, noise: float = 0
) -> list[NetworkSample]:
    rng = np.random.default_rng(3)
    made = []
    for _ in range(count):
        blocks = int(rng.integers(8, 22))
        cold = float(rng.uniform(0.2, 0.6)) * blocks
        size = float(rng.uniform(4e6, 24e6))
        latency = a * cold + k * blocks + c + e * max(0.0, size - bend)
        latency *= 1 + noise * float(rng.standard_normal())
        hot = cold * float(rng.uniform(0.7, 0.9))
        made.append(NetworkSample(blocks, cold, hot, size, 0.0, 0.0, latency))
    return made


def test_coefficients_are_found() -> None:
    model = fit_price(_samples(12, a=0.9, k=-0.01, c=0.3), least_cold_ms=0.2, least_hot_ms=0.1)
    found = (model.cold_scale, model.hot_scale, model.block_ms, model.network_ms)
    assert found == pytest.approx((0.9, 0.0, -0.01, 0.3), abs=1e-6)
    assert model.loo_error == pytest.approx(0, abs=1e-6)


def test_widths_of_slower_classes_have_a_coefficient_of_their_own() -> None:
    samples = _samples(16, a=0.9, k=-0.01, c=0.3)
    rng = np.random.default_rng(4)
    for index in range(3, 16, 4):
        misaligned_ms = samples[index].cold_ms * float(rng.uniform(0.4, 0.9))
        latency_ms = samples[index].latency_ms + 0.25 * misaligned_ms
        samples[index] = replace(samples[index], misaligned_ms=misaligned_ms, latency_ms=latency_ms)
    model = fit_price(samples, least_cold_ms=0.2, least_hot_ms=0.1)
    assert (model.cold_scale, model.slow_scale) == pytest.approx((0.9, 0.25), abs=1e-6)
    prices = [model.block_price_ms(0.4, 0.3, weight_bytes=0, misaligned=m) for m in (False, True)]
    assert prices[1] - prices[0] == pytest.approx(0.1, abs=1e-6)


def _excess_ms(model: PriceModel, weight_bytes: float) -> float:
    return model.network_latency_ms(0.0, weight_bytes) - model.network_ms


def test_the_cache_term_is_found_where_it_is_and_negligible_where_it_is_not() -> None:
    with_term = fit_price(_samples(24, a=1.0, k=0.0, c=0.2, e=1e-7, bend=12e6, noise=0.003))
    assert _excess_ms(with_term, 24e6) == pytest.approx(1.2, rel=0.15)
    assert _excess_ms(with_term, 8e6) == pytest.approx(0, abs=0.1)
    samples = _samples(24, a=1.0, k=0.0, c=0.2, noise=0.003)
    typical_ms = float(np.median([sample.latency_ms for sample in samples]))
    assert _excess_ms(fit_price(samples), 24e6) < 0.01 * typical_ms


def test_the_reported_error_is_that_of_fresh_networks() -> None:
    samples = _samples(60, a=1.0, k=0.01, c=0.2, noise=0.02)
    model = fit_price(samples[:20])
    fresh = [predict_sample_ms(model, s) / s.latency_ms - 1 for s in samples[20:]]
    assert model.loo_error == pytest.approx(float(np.mean(np.abs(fresh))), abs=0.01)


def test_the_interval_covers_fresh_networks() -> None:
    samples = _samples(300, a=1.0, k=0.01, c=0.2, noise=0.02)
    model = fit_price(samples[:24])
    half_width = model.half_width()
    assert half_width is not None
    inside = [
        abs(predict_sample_ms(model, s) / s.latency_ms - 1) <= half_width for s in samples[24:]
    ]
    assert 0.8 < np.mean(inside) < 0.99
    assert fit_price(samples[:6]).half_width() is None


@pytest.mark.parametrize(("error", "bounded"), [(0.5, True), (1.0, False), (1.5, False)])
def test_errors_of_a_hundred_percent_bound_no_latency(
    tiny_table: LatencyTable, tiny_space: SearchSpace, error: float, bounded: bool
) -> None:
    model = replace_fields(tiny_table.price_model, left_out_errors=(error,) * 20)
    with TableStore.open(tiny_table.path) as store:
        store.set_results(store.estimates(), StoredFit(model, calibrated=True))
    network = tiny_space.lower(tiny_space.smallest())
    found = LatencyTable.open(tiny_table.path).predict(network)
    assert (found.low_ms is not None, found.high_ms is not None) == (bounded, bounded)
    if found.high_ms is not None:
        assert found.high_ms > found.latency_ms


def test_bounded_least_squares_equal_scipys() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        matrix = rng.standard_normal((12, 10)) + 0.5
        wanted = rng.standard_normal(12) + 1.0
        expected = scipy.optimize.nnls(matrix, wanted)[0]
        assert nonnegative_least_squares(matrix, wanted) == pytest.approx(expected, abs=1e-6)


def test_the_cheapest_block_keeps_a_positive_price() -> None:
    """A negative overhead a block must not make small blocks cost less than nothing."""
    model = fit_price(_samples(12, a=1.0, k=-0.05, c=0.3), least_cold_ms=0.02, least_hot_ms=0.02)
    assert model.block_price_ms(0.02, 0.02, weight_bytes=0, misaligned=False) > 0


def test_blocks_have_a_price_where_networks_do_not_differ() -> None:
    """As after one rough pass: what all networks take alike is not put on no block at all."""
    alike = [replace(sample, latency_ms=3.0) for sample in _samples(12, a=1.0, k=0, c=0.3)]
    model = fit_price(alike, least_cold_ms=0.02, least_hot_ms=0.02)
    assert model.block_price_ms(0.02, 0.02, weight_bytes=0, misaligned=False) > 0
    assert model.network_ms > 0


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="5 calibration networks"):
        fit_price(_samples(5, a=1, k=0, c=0))


@given(
    prices=st.lists(st.floats(0.001, 1, allow_subnormal=False), min_size=1, max_size=20),
    sizes=st.lists(st.floats(1e3, 5e6, allow_subnormal=False), min_size=20, max_size=20),
    slopes=st.lists(st.floats(0, 1e-6, allow_subnormal=False), min_size=2, max_size=2),
    ends=st.lists(st.floats(0, 2e7, allow_subnormal=False), min_size=2, max_size=2),
)
def test_a_latency_is_the_largest_of_its_pieces(
    prices: list[float], sizes: list[float], slopes: list[float], ends: list[float]
) -> None:
    breakpoints = tuple(Breakpoint(b, e) for b, e in zip(sorted(ends), slopes, strict=True))
    model = PriceModel(0.0, 1.0, 0.0, 0.3, knees=breakpoints)
    total = sum(sizes[: len(prices)])
    pieces = [
        sum(p + s * w for p, w in zip(prices, sizes, strict=False)) + c for s, c in model.pieces()
    ]
    assert model.network_latency_ms(sum(prices), total) == pytest.approx(max(pieces))
