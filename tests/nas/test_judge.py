"""The benchmark of supernets as judges, at small size, and its rank correlations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the benchmark, with one small trial on the digits."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import judge
    import judge_cells
    import judge_ranks

    trial = judge_cells.Trial(
        "proxylessnas", 16, networks=4, images=96, paths=4, layers=1, scratch_epochs=1, tested=40
    )
    monkeypatch.setattr(judge, "TRIALS", {"small": trial})
    monkeypatch.setattr(judge_cells, "DATA", "digits")
    return judge, judge_cells, judge_ranks


def test_the_same_order_is_ranked_perfectly_and_the_reverse_not_at_all(benchmark: Any) -> None:
    ranks = benchmark[2].ranks
    accuracies = np.random.default_rng(0).permutation(np.linspace(0.5, 0.9, 40))
    same = ranks(accuracies**3, accuracies)
    assert (same.tau, same.rho, same.top, same.regret) == (1, pytest.approx(1), 1, 0)
    reverse = ranks(-accuracies, accuracies)
    assert (reverse.tau, reverse.top) == (-1, 0)
    assert reverse.regret == pytest.approx(40)


def test_networks_that_share_the_best_score_share_the_regret(benchmark: Any) -> None:
    found = benchmark[2].ranks(np.array([1.0, 1.0, 0.0]), np.array([0.9, 0.7, 0.8]))
    assert found.regret == pytest.approx(10)


def test_a_bootstrap_contains_what_it_resamples(benchmark: Any) -> None:
    ranks_module = benchmark[2]
    rng = np.random.default_rng(1)
    accuracies = rng.random(30)
    scores = np.array([accuracies + rng.normal(0, 0.2, 30) for _ in range(2)])
    taus = ranks_module.Resampled(accuracies).taus(scores)
    mean = np.mean([ranks_module.ranks(row, accuracies).tau for row in scores])
    low, high = ranks_module.interval(taus)
    assert low < mean < high


def test_every_strategy_and_the_trainings_are_cells_of_one_table(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """The same command again does nothing anew and prints the same table."""
    judge = benchmark[0]
    command = ["judge.py", "--hours", "1", "-o", str(tmp_path), "--seeds", "1"]
    monkeypatch.setattr("sys.argv", command)
    judge.main()
    printed = capsys.readouterr().out
    strategies = ("uniform", "fair", "sandwich", "uniform+alike")
    for row in (*strategies, "MACs alone"):
        assert any(line.strip().startswith(row) for line in printed.splitlines())
    cells = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "cells").iterdir()}
    assert set(cells) == {f"small_{x}-0" for x in ("scratch", *strategies)}
    assert {len(cell["accuracies"]) for cell in cells.values()} == {4}
    assert [cells[f"small_{x}-0"]["epochs"] for x in ("uniform", "sandwich")] == [4, 1]
    assert cells["small_uniform-0"] != cells["small_uniform+alike-0"]
    judge.main()
    again = capsys.readouterr().out
    assert "done" not in again.splitlines()[0]
    assert again.splitlines()[4:] == printed.splitlines()[9:]


def test_a_trial_without_its_accuracies_is_refused(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    judge, cells, _ = benchmark
    monkeypatch.setattr(judge, "TRIALS", cells.TRIALS)
    with pytest.raises(SystemExit):
        judge.parse(["--hours", "1", "-o", "x", "--trials", "nasbench-macro-16px"])
    assert "needs --accuracies" in capsys.readouterr().err
