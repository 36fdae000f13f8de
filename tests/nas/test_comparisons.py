"""The comparisons of OSNASLib's paper as commands, at small size: spaces, searchers, faces."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from latbench.blocks import Network
from latbench.device_files import load_device
from nas.searchers import SEARCHERS
from nas.spaces import make_space
from nas.spaces.proxylessnas import ROWS
from tests.conftest import write_table
from tests.nas.data.test_data import write_identities

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

RECIPES = {
    "sgnas.toml": 'recipe = "sgnas"\nbudgets = 3\npriors = 1\nprior_candidates = 2\n'
    "generator_epochs = 1\nselected_on = 1\ncalibration_batches = 1\nselection = 0.5\n",
    "one-shot.toml": 'recipe = "one-shot"\nevaluations = 2\ninitial_population = 1\n'
    "surrogate = false\n",
}


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> Any:
    """Run the benchmark of components in this process; return what it printed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr("nas.spaces.proxylessnas.ROWS", ROWS[::4])  # a layer of each size
    import cells
    import component_cells
    import components

    for name, text in RECIPES.items():
        (tmp_path / name).write_text(text)

    def call(*options: object) -> str:
        given = [*("--hours", 1, "-o", tmp_path / "run"), *options]
        given += ["--epochs", 1, "--batch-size", 32, "--seeds", 1]
        asked = components.parse([*map(str, given)])
        components.compare(asked, partial(component_cells.run_cell, asked), cells.Clock(1))
        return str(capsys.readouterr().out)

    return call


def _rows(printed: str, *spaces: str) -> list[list[str]]:
    lines = [line.split() for line in printed.splitlines()]
    return [words for words in lines if words and words[0] in spaces]


def test_spaces_are_compared_by_one_generator_each(compare: Any, tmp_path: Path) -> None:
    spaces = ("proxylessnas", "sgnas-proxyless")  # separate operations, and unified blocks
    small = ("--data", "digits", "--input-size", 16, "--images", 96, "--max-macs", "2M")
    small += ("--layers", 2)
    recipe = ("--recipe", tmp_path / "sgnas.toml")
    printed = compare("--spaces", ",".join(spaces), "--searchers", "sgnas", *recipe, *small)
    rows = _rows(printed, *spaces)
    assert [row[:2] for row in rows] == [[space, "sgnas"] for space in spaces]
    assert all(float(row[3]) <= 2 for row in rows)


def test_searchers_are_compared_on_one_space(compare: Any, tmp_path: Path) -> None:
    small = ("--data", "digits", "--input-size", 16, "--images", 96, "--max-macs", "2M")
    recipes = [x for name in RECIPES for x in ("--recipe", tmp_path / name)]
    searchers = "random,evolution,sgnas"
    printed = compare("--spaces", "proxylessnas", "--searchers", searchers, *recipes, *small)
    assert [row[1] for row in _rows(printed, "proxylessnas")] == ["supernet", *searchers.split(",")]
    assert "left out" not in printed


def test_faces_are_searched_trained_and_verified(compare: Any, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    write_identities(faces, identities=12, each=10)
    small = ("--data", "faces", "--data-dir", faces, "--input-size", 32, "--classes", 16)
    more = ("--images", 96, "--train-epochs", 1, "--recipe", tmp_path / "one-shot.toml")
    more += ("--max-macs", "27M")
    printed = compare("--spaces", "mobilefacenet", "--searchers", "evolution", *small, *more)
    rows = _rows(printed, "mobilefacenet")
    assert [row[1] for row in rows] == ["supernet", "evolution"]
    assert "%" in rows[1][4]  # verification after training from scratch


def test_what_was_found_is_measured_once_a_space(
    compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import components

    tables = tmp_path / "tables"
    tables.mkdir()
    space = make_space("nasbench-macro", 8, 10)
    write_table(tables / "nasbench-macro.sqlite", space, load_device("cpu-onnxruntime"))
    sweeps: list[int] = []

    def measured(path: Path, networks: Sequence[Network]) -> list[float]:
        sweeps.append(len(networks))
        return [7.125 for _ in networks]

    monkeypatch.setattr(components, "measure_ms", measured)
    small = ("--data", "digits", "--input-size", 8, "--images", 96, "--tables", tables)
    recipe = ("--recipe", tmp_path / "one-shot.toml", "--searchers", "random,evolution")
    asked = ("--spaces", "nasbench-macro", *recipe, *small)
    assert "7.125" not in compare(*asked)
    for _ in range(2):
        assert compare(*asked, "--measure").count("7.125") == 2
    assert sweeps == [2]


def test_the_short_recipes_are_of_all_searchers(compare: Any, tmp_path: Path) -> None:
    import component_cells
    import components

    files = sorted((BENCHMARKS / "recipes").glob("short-*.toml"))
    recipes = [text for file in files for text in ("--recipe", str(file))]
    asked = components.parse(["--hours", "1", "-o", str(tmp_path / "run"), *recipes])
    assert all(component_cells.recipe_for(asked, name) for name in SEARCHERS)


def test_cells_of_another_recipe_are_not_mixed_in(compare: Any, tmp_path: Path) -> None:
    """A recipe is known by what it says, whatever its comments and the name of its file."""
    small = ("--data", "digits", "--input-size", 16, "--images", 96, "--max-macs", "2M")
    recipe = tmp_path / "one-shot.toml"
    asked = ("--spaces", "nasbench-macro", "--searchers", "random", *small)
    compare(*asked, "--recipe", recipe)
    copy = tmp_path / "copy.toml"
    copy.write_text("# a copy\n" + recipe.read_text())
    compare(*asked, "--recipe", copy)
    copy.write_text(recipe.read_text() + "alike = 0.5\n")
    with pytest.raises(SystemExit, match="recipe"):
        compare(*asked, "--recipe", copy)


def test_a_space_that_cannot_be_shortened_is_left_out(compare: Any) -> None:
    small = ("--data", "digits", "--input-size", 16, "--images", 96, "--max-macs", "2M")
    printed = compare("--spaces", "mobilefacenet", "--searchers", "sgnas", *small, "--layers", 2)
    assert "left out: mobilefacenet: a layer of mobilefacenet beyond the first 2" in printed


def test_measuring_needs_a_device(compare: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        compare("--measure", "--max-macs", "2M")
    assert "leave out --max-macs" in capsys.readouterr().err


def test_a_recipe_of_no_searcher_is_refused(compare: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        compare("--spaces", "spos", "--searchers", "softmax", "--recipe", "sgnas-small")
    assert "a recipe of none of these searchers" in capsys.readouterr().err
