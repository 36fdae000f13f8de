"""Fronts: spread budgets, and points that another one beats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.cost import network_cost
from latbench.device import DeviceProfile
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import Constraint, Count, Limit, latency_limits
from nas.optimize.encoding import EncodedSpace
from nas.optimize.fronts import Point, beaten, spread_budgets
from tests.conftest import make_small_space, random_price, write_table


@pytest.fixture
def devices(tmp_path: Path, profile: DeviceProfile) -> list[PricedSpace]:
    """Two devices, the second twice as slow."""
    space = make_small_space()
    slow = write_table(
        tmp_path / "slow.sqlite", space, profile, prices=lambda spec: 2 * random_price(spec)
    )
    return [
        PricedSpace(space, write_table(tmp_path / "fast.sqlite", space, profile)),
        PricedSpace(space, slow),
    ]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_budgets_have_equal_ratios_inside_the_feasible_range(
    count: int, devices: list[PricedSpace]
) -> None:
    low_ms, high_ms = devices[0].feasible_ms()
    budgets = spread_budgets(devices[:1], count)
    assert low_ms < budgets[0]
    assert budgets[-1] < high_ms
    assert budgets == sorted(budgets)
    assert all(float(f"{ms:.3g}") == ms for ms in budgets)
    if count > 2:
        ratios = np.divide(budgets[1:], budgets[:-1])
        assert ratios == pytest.approx(np.full(count - 1, ratios[0]), rel=0.02)
    if count == 1:
        assert budgets[0] == pytest.approx(np.sqrt(low_ms * high_ms), rel=0.01)


def test_every_budget_is_feasible_on_all_devices_and_within_limits(
    devices: list[PricedSpace],
) -> None:
    """The slow device decides; a limit of parameters leaves the fast networks that have few."""
    space = devices[0].space
    least = network_cost(space.lower(space.smallest())).params
    limit = Limit(Count(space, "params"), 1.05 * least)
    for limits in ((), (limit,)):
        for ms in spread_budgets(devices, 4, limits):
            EncodedSpace(Constraint((*latency_limits(devices, ms).limits, *limits)))
    slow = devices[1].feasible_ms()
    budgets = spread_budgets(devices, 4)
    assert slow[0] < budgets[0] < budgets[-1] < slow[1]


def test_a_point_is_beaten_by_a_faster_one_that_is_as_accurate() -> None:
    exact = [Point(1.0, 1.0, 0.5), Point(2.0, 2.0, 0.4), Point(2.0, 2.0, 0.6), Point(3.0, 3.0, 0.6)]
    assert beaten(exact) == [False, True, False, True]
    assert beaten([exact[0], exact[0]]) == [False, False]  # none is better


def test_intervals_that_overlap_decide_nothing() -> None:
    """A measured point is beaten only for certain."""
    point = Point(1.9, 2.1, 0.4)
    assert beaten([Point(1.7, 1.8, 0.5), point]) == [False, True]
    assert beaten([Point(1.8, 2.0, 0.5), point]) == [False, False]
    assert beaten([replace(point, score=0.5), point]) == [False, False]


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=12
    )
)
def test_whoever_is_beaten_is_beaten_by_a_point_of_the_front(drawn: list[Any]) -> None:
    """The same as a comparison of all with all."""
    points = [Point(low, low + width, score) for low, width, score in drawn]
    expected = [
        any(
            one.high_ms <= other.low_ms
            and one.score >= other.score
            and (one.high_ms < other.low_ms or one.score > other.score)
            for one in points
        )
        for other in points
    ]
    assert beaten(points) == expected
