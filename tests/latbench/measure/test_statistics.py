"""Estimates: low quantiles, their intervals, ranks, samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from latbench.measure.samples import Samples
from latbench.measure.statistics import (
    kendall_tau,
    low_quantile,
    low_quantile_interval,
    low_quantile_variance,
)
from latbench.measure.visit import Visit


def test_the_interval_encloses_the_estimate_and_shrinks_with_visits() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for visits in (10, 1000):
        samples = 1 + rng.exponential(0.1, size=(5, visits))
        estimate, low, high = low_quantile_interval(samples, 0.05)
        assert (low <= estimate).all()
        assert (estimate <= high).all()
        widths.append((high - low).mean())
    assert widths[1] < widths[0] / 3


def test_interrupting_noise_does_not_move_the_estimate() -> None:
    """A neighbour that slows half of the visits fourfold changes the low quantile little."""
    rng = np.random.default_rng(1)
    quiet = 1 + rng.exponential(0.01, size=(1, 200))
    noisy = np.where(rng.random((1, 200)) < 0.5, quiet * 4, quiet)
    a, b = (low_quantile_interval(s, 0.05)[0][0] for s in (quiet, noisy))
    assert b == pytest.approx(a, rel=0.01)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=20))
def test_kendall_tau_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    """Where there are no ties; with ties tau-a counts them as no agreement."""
    x, y = [p[0] for p in pairs], [p[1] for p in pairs]
    signs = [np.sign(a[0] - b[0]) * np.sign(a[1] - b[1]) for a, b in combinations(pairs, 2)]
    assert kendall_tau(x, y) == pytest.approx(np.mean(signs))
    if len(set(x)) == len(x) and len(set(y)) == len(y):
        assert kendall_tau(x, y) == pytest.approx(kendalltau(x, y).statistic)


def test_one_network_has_no_rank() -> None:
    assert kendall_tau([1.0], [1.0]) is None


def test_a_visit_counts_as_its_fastest_call() -> None:
    samples = Samples()
    samples.add([(7, Visit((3_000_000, 2_000_000), (5_000_000,))), (7, Visit((4_000_000,), ()))])
    assert samples.hot_ms[7] == [2.0, 4.0]
    assert samples.cold_ms[7] == [5.0]


def test_targets_of_different_visits_are_estimated_together() -> None:
    samples = Samples()
    samples.add([(1, Visit((10**6,), ()))] * 3 + [(2, Visit((2 * 10**6,), ()))] * 5)
    intervals = samples.intervals([1, 2, 3], 0.1)
    assert {id_: i.estimate_ms for id_, i in intervals.items()} == {1: 1.0, 2: 2.0}


def test_the_floor_is_the_disagreement_of_two_halves() -> None:
    samples = Samples()
    samples.add([(1, Visit((ms * 10**6,), ())) for ms in (11, 11, 10, 10)])
    assert samples.split_half_noise([1], 0.5) == pytest.approx(0.1)
    assert samples.split_half_noise([2], 0.5) is None


@pytest.mark.parametrize("visits", [19, 20, 60, 180])
def test_the_low_quantile_has_the_same_level_for_every_number_of_visits(visits: int) -> None:
    """Uniform latencies: the mean of the estimate is its level."""
    drawn = np.random.default_rng(visits).uniform(size=(20_000, visits))
    assert low_quantile(drawn, 0.05).mean() == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize("visits", [8, 19, 59])
def test_the_variance_is_that_of_a_bootstrap(visits: int) -> None:
    """The order statistics of these numbers of visits are whole, or the smallest visit."""
    samples = np.random.default_rng(0).exponential(size=visits)
    picks = np.random.default_rng(1).integers(visits, size=(40_000, visits))
    expected = low_quantile(samples[picks], 0.05).var()
    assert low_quantile_variance(samples, 0.05) == pytest.approx(expected, rel=0.05)


def test_the_variance_of_many_visits_is_that_of_a_quantile() -> None:
    """Evenly spread visits: the variance of a quantile of a uniform distribution."""
    visits = 5000
    samples = np.arange(1, visits + 1) / (visits + 1)
    assert low_quantile_variance(samples, 0.05) == pytest.approx(0.05 * 0.95 / visits, rel=0.02)


def test_the_variance_of_a_high_quantile_of_few_visits_is_finite() -> None:
    assert np.isfinite(low_quantile_variance(np.array([1.0, 2.0]), 0.99))
    assert low_quantile_variance(np.array([1.0]), 0.05) == 0


def test_the_interval_of_a_sum_is_that_of_repeated_measurements() -> None:
    """Eight networks, of whose noise a half is that of the whole pass."""
    rng, sums, half_widths = np.random.default_rng(0), [], []
    for _ in range(150):
        passes = rng.exponential(0.1, size=40)
        samples = Samples()
        for id_ in range(8):
            samples.hot_ms[id_] = list(1 + (passes + rng.exponential(0.1, size=40)) / 2)
        half_widths.append(samples.joint_half_width(range(8), 0.3))
        sums.append(
            sum(float(low_quantile(np.array([x]), 0.3)[0]) for x in samples.hot_ms.values())
        )
    low, high = np.quantile(sums, (0.025, 0.975))
    assert np.mean(half_widths) == pytest.approx((high - low) / 2 / np.mean(sums), rel=0.2)


def test_networks_of_an_interrupted_pass_are_resampled_together() -> None:
    """Half of them have the visits of one more pass; noise that all share must not average out."""
    rng = np.random.default_rng(0)
    shared = 1 + rng.exponential(0.1, size=63)
    whole, partial = Samples(), Samples()
    for id_ in range(8):
        whole.hot_ms[id_] = list(shared[:60])
        partial.hot_ms[id_] = list(shared[: 60 + 3 * (id_ % 2)])
    expected = whole.joint_half_width(range(8), 0.05, by_pass=3)
    assert partial.joint_half_width(range(8), 0.05, by_pass=3) == pytest.approx(expected)
    partial.hot_ms[8] = list(shared[:30])  # added later: a group of its own
    assert partial.joint_half_width(range(9), 0.05, by_pass=3) > 0
