"""The comparisons of OSNASLib's paper as commands, at small size: spaces, searchers, faces."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nas.spaces.proxylessnas import ROWS
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


def test_a_recipe_of_no_searcher_is_refused(compare: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        compare("--spaces", "spos", "--searchers", "softmax", "--recipe", "sgnas-small")
    assert "a recipe of none of these searchers" in capsys.readouterr().err
