"""Every space with every searcher, strategy and task: it works for one step, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.matrix import OWN, combinations, priced_space, tried
from nas.searchers import SEARCHERS
from nas.spaces import SPACES
from nas.tasks import TASKS


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("space", list(SPACES))
def test_every_combination_works_or_is_refused_before_it_writes(
    space: str, task: str, tmp_path: Path
) -> None:
    priced = priced_space(space, tmp_path / "table.sqlite")
    for number, cell in enumerate(combinations([space], list(SEARCHERS), [task])):
        run = tmp_path / str(number)
        done = tried(cell, priced, run)
        if done.refused is None:
            assert (run / "architectures").is_dir(), cell
        else:
            assert not run.exists(), cell
            assert len(done.refused) > 20 and ":" in done.refused, "a reason and what to do instead"
        if cell.strategy == OWN and cell.searcher in ("random", "evolution", "softmax", "gumbel"):
            assert done.refused is None, cell
