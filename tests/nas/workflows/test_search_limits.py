"""Searches under a limit of memory, and fronts, as functions and as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
from latbench.blocks import BlockSpec
from latbench.device import DeviceProfile
from latbench.errors import BudgetError, InvalidValueError, LatbenchError, UnknownNameError
from latbench.peak_memory import network_peak_bytes
from nas.latency.priced_space import PricedSpace
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.searchers.tfnas.searcher import TFNASSearcher
from nas.spaces import make_space
from nas.workflows.search_limits import LimitedSpace
from tests.conftest import (
    make_mix_space,
    make_tiny_fixed_space,
    make_tiny_space,
    random_price,
    write_table,
)
from tests.nas.runs import tiny_data

UNIFIED = ("sgnas", "evolution", "gumbel")
CASES = [
    *[(name, make_tiny_space) for name in SEARCHERS if name != "sgnas"],
    *[(name, make_mix_space) for name in UNIFIED],
]


def _settings(name: str) -> tuple[str, ...]:
    """Settings with which a search is short."""
    if SEARCHERS[name].recipe_kind is OneShotRecipe:
        return ("evaluations=6", "initial_population=4")
    if name == "sgnas":
        return ("budgets=5", "priors=1", "prior_candidates=2", "selected_on=2")
    return ()


@pytest.mark.parametrize(("name", "make"), CASES)
def test_every_searcher_keeps_the_memory(
    name: str, make: Any, tmp_path: Path, profile: DeviceProfile
) -> None:
    """A limit that excludes most networks, at a latency that allows nearly all."""
    space = make()
    table = write_table(tmp_path / "t.sqlite", space, profile)
    rng = np.random.default_rng(0)
    peaks = [network_peak_bytes(space.lower(space.random(rng))) for _ in range(100)]
    most = float(np.quantile(peaks, 0.3))
    assert most < max(peaks)
    within = PricedSpace(space, table)
    low_ms, high_ms = within.feasible_ms()
    if make is make_tiny_space:
        low_ms, high_ms = within.within_memory(most).feasible_ms()
    found = nas.search(
        space,
        table,
        data=tiny_data(),
        output=tmp_path / "run",
        targets=[low_ms + 0.8 * (high_ms - low_ms)],
        max_memory=most,
        searcher=name,
        widths="any",
        settings=_settings(name),
        epochs=1,
        batch_size=16,
    )
    (made,) = found
    peak = network_peak_bytes(space.lower(made.architecture))
    assert peak <= most
    assert made.latency_ms is not None
    assert made.latency_ms <= low_ms + 0.8 * (high_ms - low_ms)
    assert found.as_dict()["results"][0]["peak_memory_mb"] == peak / 1e6


def test_a_memory_that_no_network_keeps_is_refused(tmp_path: Path, profile: DeviceProfile) -> None:
    space = make_tiny_space()
    table = write_table(tmp_path / "t.sqlite", space, profile)
    for most, words in (("1KB", "out of reach"), ("10", "not a memory")):
        with pytest.raises((BudgetError, InvalidValueError), match=words):
            nas.search(
                space,
                table,
                data=tiny_data(),
                output=tmp_path / "run",
                targets="1ms",
                max_memory=most,
            )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_front_has_so_many_targets_and_marks_what_is_beaten(
    devices: int, tmp_path: Path, profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = make_tiny_space()
    monkeypatch.setattr("nas.latency.priced_space.make_space", lambda *label: space)
    tables = [write_table(tmp_path / f"{n}.sqlite", space, profile) for n in range(devices)]
    found = nas.search(
        space,
        tables,
        data=tiny_data(),
        output=tmp_path / "run",
        front=3,
        searcher="random",
        widths="any",
        settings=_settings("random"),
        epochs=1,
        batch_size=16,
    )
    targets = [result.target_ms for result in found]
    assert len(targets) == 3
    assert targets == sorted(targets, key=float)
    rows = found.as_dict()["results"]
    for row in rows:
        better = [
            other
            for other in rows
            if other["latency_ms"] <= row["latency_ms"]
            and other["score"] >= row["score"]
            and (other["latency_ms"], other["score"]) != (row["latency_ms"], row["score"])
        ]
        assert row["dominated"] == bool(better)


def test_a_front_chooses_the_targets_itself(tmp_path: Path, profile: DeviceProfile) -> None:
    space = make_tiny_space()
    table = write_table(tmp_path / "t.sqlite", space, profile)
    for tables, targets, words in (([table], ["1ms"], "--target"), ([], [], "--table")):
        with pytest.raises(InvalidValueError, match=words):
            nas.search(
                space,
                tables,
                data=tiny_data(),
                output=tmp_path / "run",
                targets=targets,
                front=2,
                searcher="random",
            )


def test_the_command_prints_a_front(run: Any, tmp_path: Path, profile: DeviceProfile) -> None:
    path, space = tmp_path / "t.sqlite", nas.make_space("nasbench-macro", 8, 10)
    write_table(path, space, profile)
    asked = (
        *("search", "nasbench-macro", "--searcher", "random", "--table", path, "--front", 2),
        *("--max-memory", "1MB", "--set", "evaluations=4", "--epochs", 1, "--images", 64),
        *("--data", "digits", "-o", tmp_path / "run"),
    )
    code, out, err = run(*asked, "--json", "--quiet")
    assert (code, err) == (0, "")
    results = json.loads(out)["results"]
    assert len(results) == 2
    assert all(row["peak_memory_mb"] <= 1 for row in results)
    code, out, _ = run(*asked)
    assert code == 0
    assert "  MB  " in out
    assert "dominated by another target: " in out
    assert out.count("latbench train") == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sgnas", "limit of memory alone"),
        ("softmax", "name a budget"),
        ("random", "name a budget"),
    ],
)
def test_a_memory_alone_is_no_budget(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=words):
        nas.search(
            make_mix_space(),
            data=tiny_data(),
            output=tmp_path / "run",
            max_memory="1MB",
            searcher=name,
            settings=_settings(name),
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"epochs": 0}, InvalidValueError, "epochs=0"),
        ({"epochs": -1}, InvalidValueError, "epochs=-1"),
        ({"batch_size": 1}, InvalidValueError, "batch_size=1"),
        ({"seed": -1}, InvalidValueError, "seed is 0 or more"),
        ({"widths": "efficent"}, UnknownNameError, "efficient"),
    ],
)
def test_what_would_train_nothing_or_something_else_is_refused(
    asked: dict[str, Any], error: type[LatbenchError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        nas.search(
            make_tiny_fixed_space(),
            data=tiny_data(),
            output=tmp_path / "run",
            max_macs=1e9,
            searcher="evolution",
            **asked,
        )
    assert not (tmp_path / "run").exists()


def test_a_front_is_that_of_the_space_without_squeeze_excite(
    tmp_path: Path, profile: DeviceProfile
) -> None:
    """Blocks with it take ten times as long here, and are left out of the search."""
    space = make_space("tfnas", 32, 10)

    def price(spec: BlockSpec) -> float:
        return random_price(spec) * (10 if getattr(spec, "se_channels", 0) else 1)

    table = write_table(tmp_path / "t.sqlite", space, profile, prices=price)
    priced = PricedSpace(space, table)
    recipe = TFNASRecipe(squeeze_excite=False)
    (searched,) = TFNASSearcher.bounded([priced], recipe)
    limited = LimitedSpace(space, (priced,))
    targets_ms = limited.front(3, [], [searched])
    low_ms, high_ms = searched.feasible_ms()
    assert all(low_ms <= each <= high_ms for each in targets_ms)
    assert high_ms < 0.5 * priced.feasible_ms()[1]
    TFNASSearcher(priced, SearchSettings(recipe=recipe)).check_targets(targets_ms)
