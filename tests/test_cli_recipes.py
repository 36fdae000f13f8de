"""Every shipped recipe is loaded by the command that it is for, and takes a step there."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from nas.recipes import shipped_recipes
from nas.searchers import SEARCHERS
from nas.spaces.proxylessnas import ROWS
from tests.nas.data.test_data import write_identities
from tests.test_cli import _json

# what makes a run of any recipe short, by the fields of its kind
SHORT = {
    "evaluations": 2,
    "initial_population": 1,
    "budgets": 3,
    "priors": 1,
    "prior_candidates": 2,
    "imitation_steps": 1,
    "generator_epochs": 1,
    "selected_on": 1,
    "calibration_batches": 1,
    "per_class": 0,
}

FEW_ROWS = ROWS[::4]  # a layer of each size: steps through 21 unified blocks take long

MAX_MACS = {"nasbench-macro": "10M", "sgnas-proxyless": "2M"}


def _values(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("nas.recipes").joinpath(f"{name}.toml").read_text())


def _short(kind: Any) -> list[str]:
    changes = [f"{key}={value}" for key, value in SHORT.items() if key in kind.__struct_fields__]
    return [word for change in changes for word in ("--set", change)]


def _searcher(kind: str) -> str:
    """A searcher whose recipes are of this kind."""
    for name in SEARCHERS:
        made = SEARCHERS[name].recipe_kind
        if made is not None and made.__struct_config__.tag == kind:
            return name
    raise AssertionError(f"no command loads recipes of the kind {kind}")


def _data(name: str, folder: Path) -> list[object]:
    if "faces" not in name:
        return ["--data", "digits", "--images", 96]
    write_identities(folder / "faces", identities=12, each=8)
    return ["--data", "faces", "--data-dir", folder / "faces", "--images", 96]


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_runs(
    name: str, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.training.recipe import TrainingRecipe

    monkeypatch.setattr("nas.spaces.proxylessnas.ROWS", FEW_ROWS)
    values = _values(name)
    shape = ("--input-size", 16, "--classes", 10)
    common = ["--recipe", name, "--epochs", 1, "--batch-size", 32, *_data(name, tmp_path)]
    if values["recipe"] == "training":
        file = tmp_path / "a.json"
        assert run("spaces", "nasbench-macro", "--draw", "smallest", *shape, "-o", file)[0] == 0
        short = _short(TrainingRecipe)
        code, result = _json(run, "train", file, *common, *short, "-o", tmp_path / "run")
        assert (code, "error" in result) == (0, False), result
        return
    searcher = _searcher(values["recipe"])
    if searcher == "tfnas":
        table = tmp_path / "t.sqlite"
        _write_table(table)
        budget = ["--table", table, "--target", _middle(run, table, tmp_path)]
        common[common.index("--epochs") + 1] = 2
    else:
        budget = ["--max-macs", MAX_MACS[_space(name)], *shape]
    short = _short(SEARCHERS[searcher].recipe_kind)
    options = ["--searcher", searcher, *budget, *common, *short, "-o", tmp_path / "run"]
    code, result = _json(run, "search", _space(name), *options)
    assert code == 0, result
    assert len(result["results"]) == 1


def _space(name: str) -> str:
    if name in ("sgnas-osnaslib-cifar100",) or not name.startswith("sgnas"):
        return "nasbench-macro"
    return "sgnas-proxyless"


def _write_table(path: Path) -> None:
    from latbench.device_files import load_device
    from nas.spaces import make_space
    from tests.conftest import write_table

    write_table(path, make_space("nasbench-macro", 16, 10), load_device("cpu-onnxruntime"))


def _middle(run: Any, table: Path, folder: Path) -> str:
    """A target that half of the space's networks are above or so."""
    file = folder / "random.json"
    shape = ("--input-size", 16, "--classes", 10)
    assert run("spaces", "nasbench-macro", "--draw", "random", *shape, "-o", file)[0] == 0
    return f"{_json(run, 'predict', file, '--table', table)[1]['latency_ms']:.6g}ms"
