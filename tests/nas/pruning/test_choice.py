"""The choice of widths: the optimum of all combinations that keep the latency."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from latbench.errors import BudgetError, LatbenchError
from nas.pruning.choice import PricedWidths, choose_widths, lost_importance
from nas.pruning.groups import PrunableGroup
from nas.pruning.width_grid import Grid, Place, WidthGrid

SUMS = 2  # a latency is the largest of so many sums


def random_problem(seed: int) -> tuple[PricedWidths, dict[PrunableGroup, np.ndarray]]:
    """Four groups of a few widths, five segments of one to three groups, two sums."""
    rng = np.random.default_rng(seed)
    groups = [PrunableGroup(str(n), 16 * (n + 2), (str(n),)) for n in range(4)]
    grids = {group: Grid.of(group.width, segments=[3]) for group in groups}
    places = [
        tuple(groups[n] for n in sorted(rng.choice(4, size=rng.integers(1, 4), replace=False)))
        for _ in range(5)
    ]
    places.append(())
    addends = []
    for place in places:
        products = np.ones(())
        for group in place:
            products = np.multiply.outer(products, np.array(grids[group].candidates) / 64)
        noise = rng.uniform(0.9, 1.1, (*products.shape, SUMS))
        addends.append(rng.uniform(0.2, 1) + products[..., None] * noise)
    grid = WidthGrid(grids, tuple(Place(place, {}) for place in places), ())
    priced = PricedWidths(grid, addends, np.array([0.3, 0.1]))
    importances = {group: rng.exponential(size=group.width) ** 2 for group in groups}
    return priced, importances


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_is_the_best_of_all_combinations(seed: int) -> None:
    priced, importances = random_problem(seed)
    grids = priced.grid.grids
    lost = lost_importance(importances, priced.grid)
    low_ms, high_ms = priced.range_ms()
    target_ms = low_ms + (0.2 + 0.6 * seed / 12) * (high_ms - low_ms)

    def loss(widths: dict[PrunableGroup, int]) -> float:
        return sum(lost[g][grids[g].candidates.index(width)] for g, width in widths.items())

    every = [
        dict(zip(grids, widths, strict=True))
        for widths in product(*(grid.candidates for grid in grids.values()))
    ]
    best = min(loss(each) for each in every if priced.latency_ms(each) <= target_ms)
    found = choose_widths(priced, lost, target_ms)
    assert priced.latency_ms(found) <= target_ms * (1 + 1e-6)
    assert loss(found) == pytest.approx(best, rel=1e-3)


def test_a_target_of_the_whole_keeps_everything() -> None:
    priced, importances = random_problem(0)
    found = choose_widths(priced, lost_importance(importances, priced.grid), priced.range_ms()[1])
    assert found == {group: group.width for group in priced.grid.grids}


def test_a_target_below_the_narrowest_names_it() -> None:
    priced, importances = random_problem(1)
    low_ms, _ = priced.range_ms()
    with pytest.raises(BudgetError) as error:
        priced.check_target(0.9 * low_ms)
    with pytest.raises(LatbenchError, match="no widths"):
        choose_widths(priced, lost_importance(importances, priced.grid), 0.9 * low_ms)
    assert error.value.nearest_ms == low_ms


def test_lost_importance_is_the_share_of_the_removed_channels() -> None:
    group = PrunableGroup("a", 32, ("a",))
    grid = WidthGrid({group: Grid((8, 16, 32), (8, 32))}, (), ())
    importances = np.arange(32.0)
    (lost,) = lost_importance({group: importances}, grid).values()
    wanted = [importances[:24].sum(), importances[:16].sum(), 0.0] / importances.sum()
    np.testing.assert_allclose(lost, wanted, atol=1e-12)
