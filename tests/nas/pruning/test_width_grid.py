"""Widths and segments of a grid: equal to those of pruned modules, and interpolated exactly."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.models.channels.groups import find_channels
from latbench.models.segments import cut
from latbench.models.torch_modules import read_module
from nas.pruning.groups import PrunableGroup, PrunableModule
from nas.pruning.width_grid import (
    Grid,
    Variants,
    WidthGrid,
    aligned_widths,
    crowded,
    make_grid,
    touched_places,
)
from tests.nas.pruning.small import example, make_small


class Gridded:
    """The small module with its grid; joined where ``joined`` says."""

    def __init__(self, joined: tuple[int, ...] = ()) -> None:
        self.model = read_module(make_small(), example())
        self.module = PrunableModule(make_small(), example(), find_channels(self.model))
        grids = {group: Grid.of(group.width, segments=[2]) for group in self.module.groups}
        least = {group: grid.candidates[0] for group, grid in grids.items()}
        self.variants = Variants(self.exported(least), least)
        self.touched = touched_places(self.variants, self.module.groups, joined)
        self.grid: WidthGrid = make_grid(self.variants, grids, self.touched, joined)

    def exported(self, widths: Mapping[PrunableGroup, int]):  # type: ignore[no-untyped-def]
        removed = {group: range(group.width - width) for group, width in widths.items()}
        return read_module(self.module.pruned(removed), example())


@pytest.fixture(scope="module")
def gridded() -> Gridded:
    return Gridded()


def test_segments_of_a_grid_are_those_of_pruned_modules(gridded: Gridded) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        widths = {g: int(rng.choice(grid.candidates)) for g, grid in gridded.grid.grids.items()}
        ours = [piece.segment for piece in gridded.variants.pieces(widths)]
        assert ours == [piece.segment for piece in cut(gridded.exported(widths))]


def test_the_first_network_is_the_module_itself(gridded: Gridded) -> None:
    assert gridded.grid.networks[0] == tuple(piece.segment for piece in cut(gridded.model))


def test_every_combination_of_levels_occurs(gridded: Gridded) -> None:
    grids = gridded.grid.grids
    for place in gridded.grid.places:
        wanted = set(product(*(grids[group].levels for group in place.groups)))
        assert place.segments.keys() == wanted
    assert len(gridded.grid.networks) < 30  # many places share a network


def test_networks_are_made_of_segments_of_the_grid(gridded: Gridded) -> None:
    known = set(gridded.grid.segments)
    assert all(known.issuperset(network) for network in gridded.grid.networks)


def test_joined_segments_are_priced_as_one(gridded: Gridded) -> None:
    joined = Gridded(joined=(0,))
    assert len(joined.grid.places) == len(gridded.grid.places) - 1
    both = {*gridded.grid.places[0].groups, *gridded.grid.places[1].groups}
    assert set(joined.grid.places[0].groups) == both


widths = st.integers(8, 2048)


@given(widths, st.lists(st.integers(1, 6), max_size=5))
def test_candidates_are_aligned_and_end_with_the_whole(width: int, segments: list[int]) -> None:
    grid = Grid.of(width, segments=segments)
    assert grid.candidates[-1] == grid.levels[-1] == width
    assert list(grid.candidates) == sorted(set(grid.candidates))
    assert set(grid.levels) <= set(grid.candidates)
    assert all(each % 8 == 0 for each in grid.candidates[:-1])
    assert grid.candidates[0] == min(grid.levels)
    if segments:
        assert len(grid.levels) ** max(segments) <= 64


@given(widths)
def test_aligned_widths_keep_a_quarter(width: int) -> None:
    found = aligned_widths(width)
    assert found and width / 4 <= found[0] and found[-1] <= width


@given(widths, st.integers(-3, 3), st.integers(-3, 3))
def test_a_linear_latency_is_interpolated_exactly(width: int, slope: int, start: int) -> None:
    grid = Grid.of(width, segments=[2])
    found = grid.interpolation @ (start + slope * np.array(grid.levels))
    np.testing.assert_allclose(found, start + slope * np.array(grid.candidates), atol=1e-8)


def test_groups_of_crowded_segments_keep_their_widths(gridded: Gridded) -> None:
    few, many = (
        gridded.module.groups[:2],
        tuple(PrunableGroup(str(number), 16, (str(number),)) for number in range(7)),
    )
    assert crowded([few, many, ()]) == set(many)


def test_a_quarter_is_not_rounded_down() -> None:
    assert aligned_widths(34)[0] == 16  # a quarter is 8.5
