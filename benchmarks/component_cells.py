"""One cell of the comparison of components: a search, or the supernet that searches share.

``components.py`` lists and prints the cells; ``options`` are the options of its command. A cell
takes the recipe of its searcher, the table of its space, and the images, and returns its result as
plain JSON values: architecture, score, counts, predicted latency, seconds, and peak memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from time import process_time
from typing import Any

import msgspec
from cells import Clock, Progress, Stopwatch, TimeIsUp, chosen, copy_supernet, shortened

from latbench.blocks import Network
from latbench.cost import network_cost
from latbench.errors import InvalidFileError, LatbenchError, UnknownNameError
from latbench.tables import LatencyTable
from latbench.workflows.footprint import peak_bytes
from nas.data import load_data
from nas.data.images import ImageData
from nas.latency.priced_space import PricedSpace, labelled_space
from nas.optimize.constraints import Count, Limit
from nas.recipes import Recipe, load_recipe
from nas.searchers import SEARCHERS, Searcher, SearchSettings
from nas.searchers.one_shot import OneShotSearcher
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.spaces import SearchSpace, make_space
from nas.tasks import task_of
from nas.training import from_scratch as scratch
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder

SUPERNET = "supernet"


def recipe_for(options: argparse.Namespace, searcher: str) -> tuple[str, Recipe] | None:
    """The first recipe of the command that is of the searcher's kind, with its name."""
    kind = SEARCHERS[searcher].recipe_kind
    for name in options.recipe:
        try:
            if kind is not None:
                return name, load_recipe(kind, name)
        except (InvalidFileError, UnknownNameError):
            continue
    return None


def common_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells of a folder have in common."""
    keys = ("images", "layers", "epochs", "batch_size", "evaluations", "train_epochs", "fraction")
    more = ("data", "input_size", "classes", "max_macs")
    recipes = {name: found[1] for name in SEARCHERS if (found := recipe_for(options, name))}
    changed = {name: _changes(recipe) for name, recipe in recipes.items()}
    return {**chosen(options, *keys, *more), "recipe": changed}


def _changes(recipe: Recipe) -> dict[str, Any]:
    """Settings of a recipe that differ from the defaults of its kind."""
    given, defaults = (msgspec.to_builtins(each) for each in (recipe, type(recipe)()))
    return {key: value for key, value in given.items() if value != defaults[key]}


def unfit_spaces(options: argparse.Namespace) -> dict[str, str]:
    """Spaces that ``--layers`` cannot shorten, with the reasons."""
    refused: dict[str, str] = {}
    for space in options.spaces:
        try:
            shortened(make_space(space, options.input_size, options.classes), options.layers)
        except LatbenchError as error:
            refused[space] = error.message
    return refused


def profile_missing_tables(
    options: argparse.Namespace, spaces: Iterable[str], clock: Clock
) -> dict[str, str]:
    """Profile the tables that are missing.

    Returns:
        Spaces without a table, with the reasons.
    """
    refused: dict[str, str] = {}
    for space in spaces:
        table = _table_file(options, space)
        if options.max_macs is not None or table.exists():
            continue
        if options.tables is not None:
            refused[space] = f"there is no {table}"
            continue
        part = table.with_suffix(".part.sqlite")
        part.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "cli", "profile", options.device, space, "-o", part),
            *("--input-size", options.input_size, "--classes", options.classes),
            *("--time-limit", options.profile_time),
        ]
        try:
            clock.check()
        except TimeIsUp:
            refused[space] = "the time was up before its table was profiled"
            continue
        done = subprocess.run([*map(str, command)], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            part.rename(table)
        else:
            said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            refused[space] = said[-1]
    return refused


def priced_space(options: argparse.Namespace, space: str) -> PricedSpace:
    """A space with the prices of its table."""
    table = LatencyTable.open(_table_file(options, space))
    whole = labelled_space(table.space)
    return PricedSpace(shortened(whole, options.layers), table, efficient=True)


def target_ms(options: argparse.Namespace, priced: PricedSpace) -> float:
    """Target of a space: ``--fraction`` of the way from its lowest latency to its highest."""
    low_ms, high_ms = priced.feasible_ms()
    return low_ms + float(options.fraction) * (high_ms - low_ms)


def _table_file(options: argparse.Namespace, space: str) -> Path:
    folder: Path = options.tables or options.output / "tables"
    return folder / f"{space}.sqlite"


def run_cell(
    options: argparse.Namespace, name: str, seed: int, run: Path, tick: Progress
) -> dict[str, Any]:
    """Train a shared supernet, or search with one or without.

    Args:
        options: Options of the command.
        name: A space and a searcher, or ``supernet``; with a strategy where a supernet is shared.
        seed: Seed of weights, paths and the order of images.
        run: Folder of the cell's run.
        tick: Called between two steps; may raise ``TimeIsUp``.

    Returns:
        The result; or the reason why these parts do not fit, as ``refused``.

    Raises:
        TimeIsUp: Between two steps.
    """
    space, what, *strategies = name.split("_")
    strategy = strategies[0] if strategies else None
    searched = _searched(options, space)
    targets_ms = [target_ms(options, searched)] if isinstance(searched, PricedSpace) else []
    data = _data(options)
    try:
        searcher = _searcher(options, what, searched, strategy=strategy, seed=seed)
        searcher.check(data, targets_ms)
    except LatbenchError as error:
        return {"refused": error.message}
    label = {"cell": name, "seed": seed, "targets_ms": targets_ms}
    folder = RunFolder(run, common_settings(options) | label)
    if what == SUPERNET:
        assert isinstance(searcher, OneShotSearcher)
        with Stopwatch(run / "seconds.json", clock=process_time) as watch:
            searcher.train(data, folder, progress=tick)
        return {"seconds": watch.total_s, "peak_mib": peak_bytes() / 2**20}
    if strategy is not None:
        copy_supernet(run.parent / f"{space}_{SUPERNET}_{strategy}-{seed}", run)
    with Stopwatch(run / "seconds.json", clock=process_time) as watch:
        (found,) = searcher.search(data, targets_ms, folder, progress=tick)
    network = searcher.space.lower(found.architecture)
    result: dict[str, Any] = {
        "architecture": found.architecture.as_dict(),
        "score": found.score,
        "macs_m": network_cost(network).macs / 1e6,
        "seconds": watch.total_s,
        "peak_mib": peak_bytes() / 2**20,
    }
    if found.latency_ms is not None:
        result["latency_ms"] = found.latency_ms
    if options.train_epochs:
        result["metric"] = _trained(options, network, data, run, seed, tick)
    return result


def _searcher(
    options: argparse.Namespace,
    what: str,
    searched: PricedSpace | SearchSpace,
    *,
    strategy: str | None,
    seed: int,
) -> Searcher:
    """The searcher of a cell; that of a shared supernet is ``random``."""
    kind = "random" if what == SUPERNET else what
    given = recipe_for(options, kind)
    recipe = given[1] if given else None
    if strategy is not None:
        one_shot = recipe if isinstance(recipe, OneShotRecipe) else OneShotRecipe()
        evaluations = options.evaluations or one_shot.evaluations
        recipe = msgspec.structs.replace(one_shot, strategy=strategy, evaluations=evaluations)
    limits = _limits(options, searched)
    settings = SearchSettings(options.epochs, options.batch_size, seed, recipe, limits=limits)
    return SEARCHERS[kind](searched, settings)


def _searched(options: argparse.Namespace, space: str) -> PricedSpace | SearchSpace:
    """The space, seen through its table unless MACs are the budget."""
    if options.max_macs is not None:
        whole = make_space(space, options.input_size, options.classes)
        return shortened(whole, options.layers)
    return priced_space(options, space)


def _limits(options: argparse.Namespace, searched: PricedSpace | SearchSpace) -> tuple[Limit, ...]:
    if isinstance(searched, PricedSpace):
        return ()
    return (Limit(Count(searched, "macs"), options.max_macs),)


def _data(options: argparse.Namespace) -> ImageData:
    data = load_data(
        options.data,
        input_size=options.input_size,
        classes=options.classes,
        data_dir=options.data_dir,
    )
    return data.subset(options.images, seed=0)


def _trained(
    options: argparse.Namespace,
    network: Network,
    data: ImageData,
    run: Path,
    seed: int,
    tick: Progress,
) -> float:
    """The test metric of what was found, trained from scratch."""
    batch_size = options.batch_size or TrainingRecipe().batch_size
    recipe = TrainingRecipe(epochs=options.train_epochs, batch_size=batch_size, seed=seed)
    folder = RunFolder(run / "train", {"epochs": options.train_epochs})
    return scratch.train(network, data, recipe, folder, progress=tick)[task_of(data).metric]
