"""Searches of ``quality.py``, and the rivals that they and the baselines make.

A rival is a network at any size. What a search found grows and shrinks by its widths, with the
prices of the table; what a generator answers by its budget; a published network by its width
multiplier.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import msgspec
import numpy as np
from baselines import BASELINES
from cells import Progress, Stopwatch, copy_supernet, results
from judge_cells import BATCH_SIZE, short_recipe

from latbench.blocks import Network
from latbench.errors import BudgetError
from latbench.tables import LatencyTable
from nas.data import load_data
from nas.data.images import ImageData
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import fit_exact
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.one_shot import OneShotSearcher
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.spaces import Architecture
from nas.training.run_folder import RunFolder
from nas.workflows.generation import generate
from nas.workflows.inputs import priced_by

TFNAS, EVOLUTION, BEST_OF_RANDOM, ONE_RANDOM = "tfnas", "evolution", "best-of-100", "one-random"
GENERATOR = "generator"
SUPERNET = "supernet"
SEARCHES = ((TFNAS, SUPERNET), (EVOLUTION, BEST_OF_RANDOM))
"""Cells in which something is trained or asked; the second two ask the supernet."""

_ONE_SHOT = {SUPERNET: "random", EVOLUTION: "evolution", BEST_OF_RANDOM: "random"}
_EVALUATIONS = 100
_FOUND_SIZES = (0.95, 1.0, 1.05)
_PUBLISHED_SIZES = tuple(float(m) for m in np.geomspace(0.15, 2.0, 6))
_DRAWS = 1_000


@dataclass(frozen=True)
class Rival:
    """A network at any size.

    Attributes:
        name: What tables call it.
        sizes: Sizes to try first.
        make: Gives the network at a size. It is that of the nearest possible size if there is none.
    """

    name: str
    sizes: tuple[float, ...]
    make: Callable[[float], Network]


def priced(table: Path) -> PricedSpace:
    """The space of a table with its prices."""
    return priced_by(LatencyTable.open(table), "efficient")


def images(options: argparse.Namespace, table: Path) -> ImageData:
    """The images of all searches and trainings."""
    label = LatencyTable.open(table).space
    data = load_data("fashion-mnist", input_size=label.input_size, classes=label.classes)
    return data.subset(options.images, seed=0)


def search(
    options: argparse.Namespace, table: Path, what: str, run: Path, tick: Progress
) -> dict[str, Any]:
    """One of ``SEARCHES``, for all targets at once.

    Args:
        options: Options of the command.
        table: Latency table of the space.
        what: Which one.
        run: Folder of this search.
        tick: Called between two steps; may raise ``TimeIsUp``.

    Returns:
        By target, what was found; and the seconds that it took.
    """
    space, data = priced(table), images(options, table)
    targets_ms = [*options.targets.values()]
    if what == TFNAS:
        tfnas = TFNASRecipe(alpha_lr=options.alpha_lr)
        settings = SearchSettings(epochs=options.epochs, seed=0, recipe=tfnas)
    else:
        epochs = options.epochs * len(targets_ms)
        one_shot = short_recipe("uniform", evaluations=_EVALUATIONS)
        settings = SearchSettings(epochs, BATCH_SIZE, seed=0, recipe=one_shot)
    searcher = SEARCHERS[_ONE_SHOT.get(what, what)](space, settings)
    searcher.check(data, targets_ms)
    asked = {name: getattr(options, name) for name in ("images", "epochs", "alpha_lr")}
    folder = RunFolder(run, {"what": what, "targets_ms": targets_ms, **asked})
    if what == SUPERNET:
        assert isinstance(searcher, OneShotSearcher)
        with Stopwatch(run / "seconds.json", clock=process_time) as watch:
            searcher.train(data, folder, progress=tick)
        return {"seconds": watch.total_s}
    if what in _ONE_SHOT:
        copy_supernet(run.parent / f"{SUPERNET}-0", run)
    with Stopwatch(run / "seconds.json", clock=process_time) as watch:
        found = searcher.search(data, targets_ms, folder, progress=tick)
    by_target = zip(options.targets, found, strict=True)
    architectures = {name: result.architecture.as_dict() for name, result in by_target}
    return {"seconds": watch.total_s, "architectures": architectures}


def rivals(options: argparse.Namespace, table: Path, target: str) -> list[Rival]:
    """All rivals at a target; the first is the one whose latency the others get.

    Args:
        options: Options of the command.
        table: Latency table of the space.
        target: Name of one of the targets.
    """
    space, target_ms = priced(table), options.targets[target]
    found = {
        name: msgspec.convert(
            results(options.output, name)[0]["architectures"][target], Architecture
        )
        for name in (TFNAS, EVOLUTION, BEST_OF_RANDOM)
    }
    found[ONE_RANDOM] = _random(space, target_ms)
    made = [_scaled(name, arch, space, target_ms) for name, arch in found.items()]
    if options.generator is not None:
        made.append(_generated(options, target_ms))
    return [*made, *_published(table)]


def _random(space: PricedSpace, target_ms: float) -> Architecture:
    """The first random architecture that can have the target, scaled to it."""
    for seed in range(_DRAWS):
        try:
            return fit_exact(space, space.space.random(seed=seed), target_ms).architecture
        except BudgetError:
            continue
    raise BudgetError(f"none of {_DRAWS} random networks can take {target_ms:.4g} ms")


def _scaled(name: str, architecture: Architecture, space: PricedSpace, target_ms: float) -> Rival:
    """An architecture whose widths are scaled to a multiple of the target."""

    def make(size: float) -> Network:
        fitted = fit_exact(space, architecture, size * target_ms, clamp=True)
        return space.space.lower(fitted.architecture)

    return Rival(name, (1.0,) if name == TFNAS else _FOUND_SIZES, make)


def _generated(options: argparse.Namespace, target_ms: float) -> Rival:
    """What a generator answers to a multiple of the target."""
    space = priced(options.generator_table).space

    def make(size: float) -> Network:
        answers = generate(
            options.generator, table=options.generator_table, targets=[size * target_ms]
        )
        return space.lower(answers.found[0].architecture)

    return Rival(GENERATOR, _FOUND_SIZES, make)


def _published(table: Path) -> Sequence[Rival]:
    label = LatencyTable.open(table).space
    return [
        Rival(name, _PUBLISHED_SIZES, lambda m, f=function: f(m, label.input_size, label.classes))
        for name, function in BASELINES.items()
    ]
