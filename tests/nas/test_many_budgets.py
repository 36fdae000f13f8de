"""The benchmark of one generator against a search for every budget, at small size."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from latbench.blocks import BlockSpec
from latbench.cost import block_cost
from latbench.device_files import load_device
from latbench.tables import LatencyTable
from nas.generator import device_of
from nas.latency.priced_space import PricedSpace
from nas.spaces import Architecture, make_space
from tests.conftest import write_table

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SPACE = make_space("nasbench-macro", 16, 10)
DEVICES = ("small-board", "large-board")
SETTINGS = (
    *("epochs=1", "batch_size=16", "budgets=3", "priors=1", "prior_candidates=2"),
    *("generator_epochs=1", "selected_on=1", "calibration_batches=1", "imitation_steps=1"),
)


def _price(spec: BlockSpec) -> float:
    return 0.01 + 1e-7 * block_cost(spec).macs


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> Any:
    """Run the benchmark on two devices in this process; return what it printed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import many_budgets

    for name in DEVICES:
        device = msgspec.structs.replace(load_device("cpu-onnxruntime"), name=name)
        write_table(tmp_path / f"{name}.sqlite", SPACE, device, prices=_price)

    def call(*options: object) -> str:
        given: list[object] = ["--hours", 1, "-o", tmp_path / "run", "--data", "digits"]
        given += ["--images", 200, "--seeds", 1, "--budgets", 2, "--evaluations", 3]
        given += ["--unmeasured", *options]
        for name in DEVICES:
            given += ["--table", tmp_path / f"{name}.sqlite"]
        for setting in SETTINGS:
            given += ["--set", setting]
        monkeypatch.setattr(sys, "argv", ["many_budgets.py", *map(str, given)])
        many_budgets.main()
        return str(capsys.readouterr().out)

    return call


def _accuracies(path: Path) -> Path:
    """A file like the benchmark's, in which costlier operations are better."""
    entries = {}
    for digits in product("012", repeat=8):
        accuracy = 80 + sum(map(int, digits)) / 2
        known = {"test_acc": [accuracy], "mean_acc": accuracy, "std": 0, "params": 1, "flops": 1}
        entries["".join(digits)] = known
    path.write_text(json.dumps(entries))
    return path


def test_both_sides_answer_every_budget_of_every_device(compare: Any, tmp_path: Path) -> None:
    """The same command again does nothing anew and prints the same tables."""
    accuracies = _accuracies(tmp_path / "accuracies.json")
    printed = compare("--accuracies", accuracies)
    cells = {f.stem: json.loads(f.read_text()) for f in (tmp_path / "run" / "cells").iterdir()}
    assert set(cells) == {"supernet-0", "generator-0", "evolution-0"}
    for side, name in product(("generator-0", "evolution-0"), DEVICES):
        priced = PricedSpace(SPACE, LatencyTable.open(tmp_path / f"{name}.sqlite"))
        rows = cells[side]["found"][device_of(priced.table)]
        assert len(rows) == 2
        for row in rows:
            made = msgspec.convert(row["architecture"], Architecture)
            assert row["predicted_ms"] == pytest.approx(priced.latency_ms(made))
            assert row["predicted_ms"] <= row["budget_ms"] * (1 + 1e-9)
            assert 0 <= row["supernet_top1"] <= 1
    # three networks a search at most, some of them shared by the searches of a device
    assert 6 <= cells["evolution-0"]["evaluated"] <= 12
    # two candidates, the better one once more, and an answer after the imitation and the epoch
    assert cells["generator-0"]["evaluated"] == 3 + 2
    for name in DEVICES:
        assert any(line.startswith(f"{name} on ") for line in printed.splitlines())
    rows = [line.split() for line in printed.splitlines() if " ms " in line]
    assert len(rows) == 4
    for row in rows:  # nothing is better than the best within the budget
        ours, theirs, best = (float(word.strip(",%")) for word in row[6:9])
        assert max(ours, theirs) <= best
    again = compare("--accuracies", accuracies)
    assert "done" not in again
    assert [line for line in again.splitlines() if " ms " in line] == [
        line for line in printed.splitlines() if " ms " in line
    ]


def test_accuracies_of_another_space_are_refused(compare: Any, tmp_path: Path, capsys: Any) -> None:
    device = load_device("cpu-onnxruntime")
    write_table(tmp_path / "spos.sqlite", make_space("spos", 16, 10), device)
    with pytest.raises(SystemExit):
        compare("--table", tmp_path / "spos.sqlite")
    assert "tables of one space are compared" in capsys.readouterr().err
