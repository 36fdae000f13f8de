"""Landing: a device that disagrees with its table is met all the same."""

from __future__ import annotations

import pytest

from latbench.blocks import Network
from latbench.errors import BudgetError
from latbench.tables import LatencyTable
from nas.landing import ROUNDS, land
from nas.priced import PricedSpace
from nas.scaling import fit_exact
from nas.spaces import SearchSpace


@pytest.fixture
def priced(tiny_space: SearchSpace, tiny_table: LatencyTable) -> PricedSpace:
    return PricedSpace(tiny_space, tiny_table)


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
def test_a_device_that_is_slower_or_faster_than_its_table_is_met(
    priced: PricedSpace, factor: float
) -> None:
    """Against a device that is off by a factor, landing does as well as knowing the factor."""
    measured: list[float] = []

    def measure_ms(network: Network) -> float:
        measured.append(factor * priced.table.predict(network).latency_ms)
        return measured[-1]

    start = priced.space.largest()
    low_ms, high_ms = (
        fit_exact(priced, start, priced.latency_ms(start)).min_ms,
        priced.latency_ms(start),
    )
    target_ms = (low_ms + high_ms) / 2
    landing = land(priced, start, target_ms, measure_ms)
    knowing = factor * fit_exact(priced, start, target_ms / factor).latency_ms
    assert landing.measured_ms <= target_ms
    assert landing.measured_ms >= 0.98 * knowing
    assert landing.measured_ms == pytest.approx(factor * landing.fit.latency_ms)
    assert landing.rounds == len(measured) <= ROUNDS


def test_the_closest_is_kept_where_widths_end(priced: PricedSpace) -> None:
    start = priced.space.smallest()
    target_ms = priced.latency_ms(start)
    landing = land(priced, start, target_ms, lambda network: 3 * target_ms)
    assert landing.measured_ms == 3 * target_ms
    assert landing.fit.latency_ms <= target_ms * (1 + 1e-9)


def test_a_target_out_of_reach_is_refused_before_anything_is_measured(priced: PricedSpace) -> None:
    def measure_ms(network: Network) -> float:
        raise AssertionError

    with pytest.raises(BudgetError):
        land(priced, priced.space.smallest(), 1e6, measure_ms)


def test_widths_go_as_far_as_they_can(priced: PricedSpace) -> None:
    """A device twice as fast as its table leaves room that only the widest network uses."""
    start = priced.space.largest()
    high_ms = priced.latency_ms(start)

    def measure_ms(network: Network) -> float:
        return priced.table.predict(network).latency_ms / 2

    landing = land(priced, start, 0.9 * high_ms, measure_ms)
    assert landing.fit.latency_ms == pytest.approx(high_ms)
