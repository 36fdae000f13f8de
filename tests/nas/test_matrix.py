"""Every space with every searcher, strategy and task: it works for one step, or says why not.

One combination a space and searcher is searched, so chosen that every two of space, searcher,
strategy and task are searched together. ``benchmarks/matrix.py`` searches all combinations.
"""

from __future__ import annotations

from itertools import combinations as tuples
from pathlib import Path

import pytest

from benchmarks.matrix import OWN, Cell, combinations, priced_space, tried
from nas.searchers import SEARCHERS
from nas.spaces import SPACES
from nas.tasks import TASKS

SPACE_NAMES, SEARCHER_NAMES = list(SPACES), list(SEARCHERS)
MIXTURES = ("softmax", "gumbel")  # strategies that no searcher takes
REFUSED = {("tfnas", "sgnas"), ("sgnas", "tfnas"), ("sgnas-proxyless", "tfnas")}
"""Spaces and searchers that never go together."""
OPEN = ("random", "evolution", "softmax", "gumbel")  # searchers of all spaces


def _in_turn(space: str, searcher: str) -> list[Cell]:
    """Combinations to search, the first that works alone; each pair begins with another one."""
    cells = combinations([space], [searcher], list(TASKS))
    cells = [cell for cell in cells if cell.strategy not in MIXTURES]
    first = (SPACE_NAMES.index(space) + SEARCHER_NAMES.index(searcher)) % len(cells)
    return cells[first:] + cells[:first]


@pytest.mark.parametrize("space", SPACE_NAMES)
def test_every_combination_works_or_is_refused_before_it_writes(space: str, tmp_path: Path) -> None:
    priced = priced_space(space, tmp_path / "table.sqlite")

    def works(cell: Cell) -> bool:
        run = tmp_path / "-".join((cell.searcher, cell.strategy, cell.task))
        reason = tried(cell, priced, run).refused
        if reason is None:
            assert (run / "architectures").is_dir(), cell
        else:
            assert not run.exists(), cell
            assert len(reason) > 20 and ":" in reason, "a reason and what to do instead"
        return reason is None

    for searcher in SEARCHER_NAMES:
        for cell in _in_turn(space, searcher):
            if works(cell):
                assert (space, searcher) not in REFUSED
                break
            assert cell.strategy != OWN or searcher not in OPEN, cell
        else:
            assert (space, searcher) in REFUSED
    for cell in combinations([space], SEARCHER_NAMES, list(TASKS)):
        assert cell.strategy not in MIXTURES or not works(cell), cell


def test_every_two_of_space_searcher_strategy_and_task_are_searched_together() -> None:
    """Where nothing is refused."""
    asked = [_in_turn(space, searcher) for space in SPACE_NAMES for searcher in SEARCHER_NAMES]
    assert _pairs([first for first, *_ in asked]) == _pairs([c for cells in asked for c in cells])


def _pairs(cells: list[Cell]) -> set[tuple[str, ...]]:
    parts = [(c.space, c.searcher, f"strategy {c.strategy}", c.task) for c in cells]
    return {pair for each in parts for pair in tuples(each, 2)}
