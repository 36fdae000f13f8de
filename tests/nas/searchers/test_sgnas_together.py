"""SGNAS in two processes: they compute what one does that averages half batches."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latbench.device_files import load_device
from latbench.errors import InvalidValueError
from latbench.tables import LatencyTable
from nas.latency.priced_space import PricedSpace
from nas.searchers.base import SearchSettings
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.sgnas.searcher import SGNASSearcher
from nas.spaces import SearchSpace
from nas.training.distributed import Workers
from nas.training.run_folder import RunFolder
from tests.conftest import make_mix_space, make_small_space, write_table
from tests.nas.halves import in_halves
from tests.nas.runs import run_of_both, run_together, tiny_data

RECIPE = SGNASRecipe(
    epochs=2, generator_epochs=2, batch_size=16, shift=0, budgets=5, priors=2, prior_candidates=2,
    selected_on=2, calibration_batches=1, imitation_steps=2,
)  # fmt: skip
SPACES = {"unified": make_mix_space, "separate": make_small_space}
KILLED_AFTER = (6, 7, 8)
"""Messages of progress, each of the run that goes on: in the supernet's second epoch, among the
priors, in the generator's second epoch."""


def _search(name: str, table: Path, run: RunFolder, group: Workers, *, kill_after: int = 0) -> None:
    calls = 0

    def progress(fraction: float, words: str) -> None:
        nonlocal calls
        calls += 1
        if calls == kill_after and not group.leads:
            os.kill(os.getpid(), signal.SIGKILL)

    priced = PricedSpace(SPACES[name](), LatencyTable.open(table))
    low, high = priced.feasible_ms()
    settings = SearchSettings(seed=3, recipe=RECIPE, workers=group)
    SGNASSearcher(priced, settings).search(tiny_data(), [(low + high) / 2], run, progress=progress)


def _search_together(folder: Path, name: str, table: Path, kill_after: int) -> None:
    with run_of_both(folder) as (group, run):
        _search(name, table, run, group, kill_after=kill_after)


@pytest.mark.parametrize(("name", "kills"), [("unified", KILLED_AFTER), ("separate", ())])
def test_two_processes_are_one_that_averages_half_batches_and_survive_kills(
    name: str, kills: tuple[int, ...], tmp_path: Path
) -> None:
    """Killed wherever it is and started again, they end as two that were not."""
    space: SearchSpace = SPACES[name]()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime")).path
    assert run_together(_search_together, tmp_path / "whole", name, table, 0) == [0, 0]
    for kill_after in kills:
        ended = run_together(_search_together, tmp_path / "cut", name, table, kill_after)
        assert ended[1] == -signal.SIGKILL
        assert ended[0] != 0
    if kills:
        assert run_together(_search_together, tmp_path / "cut", name, table, 0) == [0, 0]
        for left in ("generator.safetensors", "priors.jsonl"):
            files = [(tmp_path / run / left).read_bytes() for run in ("whole", "cut")]
            assert files[0] == files[1]
    halves = RunFolder(tmp_path / "halves", {})
    in_halves(lambda half: _search(name, table, halves, half))

    for file in ("supernet", "generator"):
        whole = _trained(tmp_path / "whole", file)
        cut = _trained(tmp_path / "cut", file) if kills else whole
        half = _trained(tmp_path / "halves", file)
        for key, value in whole.items():
            assert torch.equal(value, cut[key]), key
            assert torch.allclose(value, half[key], atol=1e-4), key
    architectures = tmp_path.glob("*/architectures/*.json")
    assert len({file.read_text() for file in architectures}) == 1


def _trained(run: Path, name: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(run / "checkpoint" / f"{name}.pt", weights_only=True)[
        name
    ]
    return found


def test_a_batch_that_does_not_divide_is_refused() -> None:
    """Before anything is trained."""
    settings = SearchSettings(recipe=RECIPE, batch_size=15, workers=Workers(0, 2))
    with pytest.raises(InvalidValueError, match="multiple of 2"):
        SGNASSearcher(make_mix_space(), settings).check(tiny_data(), [])
