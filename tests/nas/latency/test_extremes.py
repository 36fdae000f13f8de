"""The cheapest and the costliest network: against the enumeration of all networks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nas.latency.extremes import Code, Layers, cheapest, costliest, pareto_rows

Floats = NDArray[np.float64]


def _costs_of_all(network: Layers) -> Floats:
    """The cost of every network, from the sums alone."""
    totals = network.base[None]
    for layers, depths in zip(network.stages, network.depths, strict=True):
        stage = [
            sum((network.addends[i][c] for i, c in zip(layers, combination, strict=False)), 0.0)
            for depth in depths
            for combination in product(*(range(len(network.addends[i])) for i in layers[:depth]))
        ]
        totals = (totals[:, None] + np.array(stage)[None]).reshape(-1, len(network.base))
    costs: Floats = totals.max(axis=1)
    return costs


def _random_network(seed: int, *, pieces: int, like_a_latency: bool, elastic: bool) -> Layers:
    """Five layers in three stages; sums that are independent, or those of a latency."""
    rng = np.random.default_rng(seed)
    addends = [
        rng.uniform(-0.2, 1, size=(int(rng.integers(1, 6)), pieces if not like_a_latency else 2))
        for _ in range(5)
    ]
    if like_a_latency:
        slopes = np.r_[0.0, np.sort(rng.uniform(0, 3, size=pieces - 1))]
        addends = [rows[:, :1] + slopes * np.abs(rows[:, 1:]) for rows in addends]
    depths = [[1, 2] if elastic else [2], [1], [1, 2] if elastic else [2]]
    stages = [range(2), range(2, 3), range(3, 5)]
    return Layers(stages, depths, addends, rng.uniform(-1, 1, size=pieces))


@given(
    seed=st.integers(0, 100_000),
    pieces=st.integers(1, 4),
    like_a_latency=st.booleans(),
    elastic=st.booleans(),
)
def test_extremes_are_those_of_enumeration(
    seed: int, pieces: int, like_a_latency: bool, elastic: bool
) -> None:
    network = _random_network(seed, pieces=pieces, like_a_latency=like_a_latency, elastic=elastic)
    costs = _costs_of_all(network)
    assert network.cost(cheapest(network)) == pytest.approx(costs.min(), rel=1e-12, abs=1e-12)
    assert network.cost(costliest(network)) == pytest.approx(costs.max(), rel=1e-12, abs=1e-12)


def test_the_cheapest_network_may_be_least_in_no_sum() -> None:
    """A = 1 ms and 10 bytes, B = 2 ms and none, and 0.3 ms for every byte beyond 10."""
    layer = np.array([[1.0, 1.0 + 0.3 * 10], [2.0, 2.0]])
    network = Layers.of_fixed_depth([layer, layer], np.array([0.0, -0.3 * 10]))
    by_name: dict[Code, float] = {c: network.cost(c) for c in product(range(2), repeat=2)}
    expected = {(0, 0): 5.0, (0, 1): 3.0, (1, 0): 3.0, (1, 1): 4.0}
    assert by_name == pytest.approx(expected)
    assert network.cost(cheapest(network)) == pytest.approx(3.0)


@pytest.mark.parametrize("seed", range(2))
def test_many_layers_and_choices_that_trade_time_for_bytes_are_no_search_without_end(
    seed: int,
) -> None:
    """Twenty layers of 800 choices, six breakpoints inside what they add up to. A hundred thousand
    random exchanges find nothing cheaper."""
    rng = np.random.default_rng(seed)
    megabytes = rng.uniform(0.1, 1, size=(20, 800, 1))
    prices_ms = 1.2 - megabytes + rng.uniform(0, 0.3, size=megabytes.shape)
    least, most = (float(ends.sum()) for ends in (megabytes.min(axis=1), megabytes.max(axis=1)))
    breakpoints = np.linspace(least, most, 8)[1:-1]
    slopes_ms = rng.uniform(0.1, 0.6, size=len(breakpoints))
    slopes = np.r_[0.0, np.cumsum(slopes_ms)]
    base = np.r_[0.0, -np.cumsum(slopes_ms * breakpoints)]
    network = Layers.of_fixed_depth(list(prices_ms + slopes * megabytes), base)
    code = cheapest(network)
    sums, cost = network.sums(code), network.cost(code)
    for layer, chosen in enumerate(code):
        for other in range(layer + 1, len(code)):
            one = network.addends[layer] - network.addends[layer][chosen]
            two = network.addends[other] - network.addends[other][code[other]]
            some = rng.integers(800, size=(2, 500))
            swapped = sums + one[some[0]] + two[some[1]]
            assert swapped.max(axis=1).min() >= cost * (1 - 1e-12)


@given(seed=st.integers(0, 100_000), pieces=st.integers(1, 4))
def test_a_row_is_left_out_if_another_is_at_or_below_it(seed: int, pieces: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(4, size=(12, pieces)).astype(np.float64)
    kept = pareto_rows(rows)
    assert len({tuple(row) for row in rows[kept]}) == len(kept)
    for number, row in enumerate(rows):
        rivals = [other for other in rows if (other <= row).all() and (other < row).any()]
        stays = number in kept or any((rows[kept] == row).all(axis=1))
        assert stays == (not rivals)
