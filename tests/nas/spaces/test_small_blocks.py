"""Spaces under a limit of peak memory: exactly the networks that keep it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from latbench.errors import BudgetError, InvalidFileError
from latbench.peak_memory import block_peak_bytes, network_peak_bytes
from nas.spaces import Choice, SearchSpace, every_width, make_space
from nas.spaces.small_blocks import within_memory
from tests.conftest import make_small_space, make_tiny_fixed_space, make_tiny_space

SPACES = {
    "depths": make_tiny_space,
    "widths": make_tiny_fixed_space,
    "skips": make_small_space,
}
FEW = (16, 20, 24)  # of the widths of the tiny space, so that all networks can be listed


def _few(layer: object, op: str) -> list[int]:
    return [width for width in every_width(layer, op) if width % 16 == 0]  # type: ignore[arg-type]


def _networks(space: SearchSpace, ops: int = 2) -> Iterator[tuple[tuple[Choice, ...], ...]]:
    """The choices of all networks of some operations at some widths, by stage."""
    by_stage = []
    for number, stage in enumerate(space.stages):
        options = [
            [choice for op in layer.ops[:ops] for choice in layer.choices(op, _few)]
            for layer in stage
        ]
        by_stage.append([c for d in space.depths(number) for c in product(*options[:d])])
    return product(*by_stage)


@pytest.mark.parametrize("name", list(SPACES))
def test_exactly_the_networks_within_the_limit_are_left(name: str) -> None:
    """At every peak that networks of the space have, and just below it."""
    space = SPACES[name]()
    peaks = {
        stages: network_peak_bytes(space.lower(space.architecture(stages)))
        for stages in _networks(space, ops=99 if name == "skips" else 2)
    }
    assert len(set(peaks.values())) > 2
    for most in sorted(set(peaks.values())):
        smaller = within_memory(space, most)
        for stages, peak in peaks.items():
            try:
                smaller.architecture(stages)
            except InvalidFileError:
                assert peak > most
            else:
                assert peak <= most
    with pytest.raises(BudgetError, match="ask for that or more"):
        within_memory(space, min(block_peak_bytes(spec) for spec in space.stem) - 1)


@pytest.mark.parametrize("name", ["tfnas", "fbnet-l", "spos", "mobilefacenet", "nasbench-macro"])
def test_draws_and_choices_keep_the_limit(name: str) -> None:
    space, rng = make_space(name), np.random.default_rng(5)
    peaks = [network_peak_bytes(space.lower(space.random(rng))) for _ in range(20)]
    most = float(np.quantile(peaks, 0.2))
    smaller = within_memory(space, most)
    drawn = [smaller.random(rng) for _ in range(20)]
    for architecture in (*drawn, smaller.smallest(), smaller.largest()):
        space.check(architecture)
        assert network_peak_bytes(space.lower(architecture)) <= most
    for layer in smaller.layers:
        for op in layer.ops:
            for choice in layer.choices(op, every_width):
                block = layer.block(choice)
                assert block is None or block_peak_bytes(block) <= most
            widths = layer.widths(op)
            assert not widths or layer.start_width(op) in widths


def test_a_width_beyond_the_limit_is_no_part_of_the_space() -> None:
    """A wider one never fits if a narrower one does not."""
    space = make_tiny_space()
    layer = space.layers[1]
    whole = layer.widths("k3_e6")
    middle = layer.block(Choice("k3_e6", whole[len(whole) // 2]))
    assert middle is not None
    smaller = within_memory(space, block_peak_bytes(middle))
    assert smaller.layers[1].widths("k3_e6") == whole[: len(whole) // 2 + 1]
