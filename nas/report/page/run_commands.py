"""Command lines that repeat a run, and its settings as a recipe file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from latbench.report.page.table_sections import shell
from latbench.tables import LatencyTable
from nas.report.page.run_contents import RunContents, searched_tables
from nas.spaces import Architecture

RECIPE = "recipe.toml"
ARCHITECTURE = "architecture.json"


def search_command(run: RunContents, tables: Sequence[LatencyTable]) -> str:
    """The command of a search.

    Args:
        run: The search.
        tables: Its tables as far as they are known; a placeholder stands for the others.
    """
    config = run.config
    words = ["search", str(config["space"]), "--searcher", str(config["searcher"])]
    for number, table in enumerate(searched_tables(config, tables), start=1):
        words += ["--table", str(table.path) if table else f"TABLE{number}"]
    for target_ms in config["targets_ms"]:
        words += ["--target", f"{target_ms!r}ms"]
    for name, option in (("max_macs", "--max-macs"), ("max_params", "--max-params")):
        if config.get(name) is not None:  # with its unit: a small bare number is in millions
            words += [option, f"{config[name] / 1e6:.12g}M"]
    if config.get("max_memory") is not None:
        words += ["--max-memory", f"{config['max_memory']!r}B"]
    if not config["prices"] and run.found and run.found[0].architecture is not None:
        words += _size(run.found[0].architecture)
    if config["widths"] != "efficient":
        words += ["--widths", config["widths"]]
    words += _options(config, {"data": "--data", "images": "--images", "epochs": "--epochs"})
    words += _options(config, {"batch_size": "--batch-size"})
    if config["recipe"] is not None:
        words += ["--recipe", RECIPE]
    words += _options(config, {"seed": "--seed", "confidence": "--confidence"})
    measured = [found.rounds for found in run.found if found.rounds.rounds]
    if measured:
        words.append("--until-verified" if measured[0].verdicts else "--measured")
    return shell(*words, "-o", str(run.path))


def _size(architecture: Architecture) -> list[str]:
    size = ["--input-size", str(architecture.input_size), "--classes", str(architecture.classes)]
    se = ["--se"] if architecture.se else []
    plain = architecture.activation == "relu6"
    return [*size, *se, *([] if plain else ["--activation", architecture.activation])]


def _options(config: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Options for the settings that are not None."""
    given = ((option, config.get(name)) for name, option in names.items())
    return [
        word
        for option, value in given
        if value is not None
        for word in (option, repr(value) if isinstance(value, float) else str(value))
    ]


def train_command(run: RunContents, architecture: Path | None) -> str:
    """The command of a training; ``architecture`` is the file of its architecture, if known."""
    words = ["train", str(architecture or ARCHITECTURE)]
    words += _options(run.config, {"data": "--data", "images": "--images"})
    return shell(*words, "--recipe", RECIPE, "-o", str(run.path))


def recipe_file(run: RunContents) -> tuple[tuple[str, str], ...]:
    """Name and text of a recipe file with the settings of a run; none for a run without any."""
    recipe = run.config.get("recipe")
    if not isinstance(recipe, dict):
        return ()
    given = {name: value for name, value in recipe.items() if value not in (None, {})}
    return ((RECIPE, tomli_w.dumps(given).rstrip()),)
