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
    nonnegative_solution,
)
from nas.spaces import SearchSpace


def _samples(
    count: int,
    *,
    a: float,
    k: float,
    c: float,
    e: float = 0.0,
    bend: float = 0.0,
    fill: float = 0.0,
    noise: float = 0,
    seed: int = 3,
) -> list[NetworkSample]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        blocks = int(rng.integers(8, 22))
        cold = float(rng.uniform(0.2, 0.6)) * blocks
        size = float(rng.uniform(4e6, 24e6))
        hot = cold * float(rng.uniform(0.7, 0.9))
        latency = a * cold + k * blocks + c + e * max(0.0, size + fill * hot - bend)
        latency *= 1 + noise * float(rng.standard_normal())
        made.append(NetworkSample(blocks, cold, hot, size, 0.0, latency))
    return made


def _predicted_ms(model: PriceModel, sample: NetworkSample) -> float:
    """Predicted latency of a network, from the sums over its blocks."""
    prices_ms = (
        model.cold_scale * sample.cold_ms
        + model.hot_scale * sample.hot_ms
        + model.block_ms * sample.blocks
        + model.near_ms_per_byte * sample.near_bytes
    )
    footprint = model.footprint_bytes(sample.weight_bytes, sample.hot_ms)
    return model.network_latency_ms(prices_ms, footprint)


def test_coefficients_are_found() -> None:
    model = fit_price(_samples(12, a=0.9, k=-0.01, c=0.3), least_cold_ms=0.2, least_hot_ms=0.1)
    found = (model.cold_scale, model.hot_scale, model.block_ms, model.network_ms)
    assert found == pytest.approx((0.9, 0.0, -0.01, 0.3), abs=1e-6)
    assert model.loo_error == pytest.approx(0, abs=1e-6)


def _excess_ms(model: PriceModel, weight_bytes: float) -> float:
    return model.network_latency_ms(0.0, weight_bytes) - model.network_ms


def test_the_cache_term_is_found_where_it_is_and_negligible_where_it_is_not() -> None:
    with_term = fit_price(_samples(24, a=1.0, k=0.0, c=0.2, e=1e-7, bend=12e6, noise=0.003))
    assert _excess_ms(with_term, 24e6) == pytest.approx(1.2, rel=0.15)
    assert _excess_ms(with_term, 8e6) == pytest.approx(0, abs=0.1)
    samples = _samples(24, a=1.0, k=0.0, c=0.2, noise=0.003)
    typical_ms = float(np.median([sample.latency_ms for sample in samples]))
    assert _excess_ms(fit_price(samples), 24e6) < 0.01 * typical_ms


def test_the_cost_of_bytes_near_the_processor_is_found() -> None:
    """A term for each byte of a block's weights, up to a limit a block."""
    rng, samples = np.random.default_rng(0), []
    for sample in _samples(24, a=0.9, k=0.01, c=0.3):
        near = float(rng.uniform(1e6, 4e6))
        latency_ms = sample.latency_ms + 3e-7 * near
        samples.append(replace(sample, near_bytes=near, latency_ms=latency_ms))
    model = fit_price(samples, near_limit_bytes=5e5)
    assert model.near_ms_per_byte == pytest.approx(3e-7, rel=1e-3)
    assert model.loo_error == pytest.approx(0, abs=1e-6)
    beyond, within, nothing = (
        model.block_price_ms(0.2, 0.2, weight_bytes=size) for size in (9e5, 4e5, 0)
    )
    assert beyond - nothing == pytest.approx(3e-7 * 5e5, rel=1e-2)
    assert within - nothing == pytest.approx(3e-7 * 4e5, rel=1e-2)


@pytest.mark.parametrize("fill", [0.0, 2e6, 6e6])
def test_the_rate_is_found_at_which_others_fill_the_cache(fill: float) -> None:
    samples = _samples(80, a=1.0, k=0.0, c=0.2, e=1e-7, bend=16e6 + 5 * fill, fill=fill)
    model = fit_price(samples[:40])
    assert model.fill_bytes_per_ms == fill
    fresh = [_predicted_ms(model, s) / s.latency_ms - 1 for s in samples[40:]]
    assert np.mean(np.abs(fresh)) < 0.005


def test_a_network_has_no_part_in_its_left_out_error() -> None:
    """Neither in the coefficients nor in the choice of the fill rate."""
    samples = _samples(16, a=1.0, k=0.01, c=0.2, e=1e-7, bend=20e6, fill=2e6, noise=0.02)
    errors = fit_price(samples).left_out_errors
    for index, factor in ((0, 1.1), (5, 0.5), (15, 3.0)):
        latency_ms = factor * samples[index].latency_ms
        others = [*samples[:index], replace(samples[index], latency_ms=latency_ms)]
        others += samples[index + 1 :]
        error = fit_price(others).left_out_errors[index]
        assert latency_ms * (1 + error) == pytest.approx(
            samples[index].latency_ms * (1 + errors[index])
        )


def test_the_reported_error_is_that_of_fresh_networks() -> None:
    samples = _samples(60, a=1.0, k=0.01, c=0.2, noise=0.02)
    model = fit_price(samples[:20])
    fresh = [_predicted_ms(model, s) / s.latency_ms - 1 for s in samples[20:]]
    assert model.loo_error == pytest.approx(float(np.mean(np.abs(fresh))), abs=0.01)


def test_the_interval_covers_fresh_networks() -> None:
    inside = []
    for seed in range(8):
        samples = _samples(100, a=1.0, k=0.01, c=0.2, noise=0.02, seed=seed)
        model = fit_price(samples[:24])
        half_width = model.half_width()
        assert half_width is not None
        for sample in samples[24:]:
            error = _predicted_ms(model, sample) / sample.latency_ms - 1
            inside.append(abs(error) <= half_width)
    assert 0.86 < np.mean(inside) < 0.96
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
    if found.low_ms is not None and found.high_ms is not None:  # errors are predicted / measured
        assert found.latency_ms / found.low_ms - 1 == pytest.approx(error)
        assert 1 - found.latency_ms / found.high_ms == pytest.approx(error)


def test_bounded_least_squares_equal_scipys() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        matrix = rng.standard_normal((12, 10)) + 0.5
        wanted = rng.standard_normal(12) + 1.0
        found = nonnegative_solution(matrix.T @ matrix, matrix.T @ wanted)
        expected = scipy.optimize.nnls(matrix, wanted)[0]
        assert found == pytest.approx(expected, abs=1e-6)
        near = rng.random(10) < 0.5
        found = nonnegative_solution(matrix.T @ matrix, matrix.T @ wanted, near)
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_cheapest_block_keeps_a_positive_price() -> None:
    """A negative overhead a block must not make small blocks cost less than nothing."""
    model = fit_price(_samples(12, a=1.0, k=-0.05, c=0.3), least_cold_ms=0.02, least_hot_ms=0.02)
    assert model.block_price_ms(0.02, 0.02, weight_bytes=0) > 0


def test_blocks_have_a_price_where_networks_do_not_differ() -> None:
    """As after one rough pass: what all networks take alike is not put on no block at all."""
    alike = [replace(sample, latency_ms=3.0) for sample in _samples(12, a=1.0, k=0, c=0.3)]
    model = fit_price(alike, least_cold_ms=0.02, least_hot_ms=0.02)
    assert model.block_price_ms(0.02, 0.02, weight_bytes=0) > 0
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
