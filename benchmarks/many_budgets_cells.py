"""Cells of ``many_budgets.py``: a supernet, a generator on it, and searches on it.

The result of a side has, by device and budget, the architecture, its predicted latency, and its
accuracy by the supernet on test images; and the processor time and number of evaluated networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import process_time
from typing import Any

from cells import Progress, Stopwatch, chosen

from nas.data import load_data
from nas.evaluators.journal import Journaled
from nas.evaluators.relaxed import AnyRelaxedEvaluator
from nas.generator import Request, answers
from nas.latency.priced_space import PricedSpace
from nas.optimize.blackbox import BLACK_BOXES
from nas.optimize.blackbox import run as run_black_box
from nas.optimize.constraints import latency_limits
from nas.optimize.encoding import Code, EncodedSpace
from nas.recipes import load_recipe
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.generator_training import GeneratorTraining
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.sgnas.searcher import evaluator_of
from nas.spaces import Architecture
from nas.training.run_files import metrics_file
from nas.training.run_folder import RunFolder

SUPERNET, GENERATOR, EVOLUTION = "supernet", "generator", "evolution"
SIDES = (GENERATOR, EVOLUTION)


def run_cell(
    options: argparse.Namespace,
    priced: Mapping[str, PricedSpace],
    name: str,
    seed: int,
    run: Path,
    tick: Progress,
) -> dict[str, Any]:
    """The training of a supernet, or what one side finds with it; and the time that this takes."""
    recipe = load_recipe(SGNASRecipe, options.recipe, options.changes)
    space = next(iter(priced.values())).space
    data = load_data(options.data, input_size=space.input_size, classes=space.classes)
    data = data.subset(options.images, seed=0)
    config = common_settings(options) | {"seed": seed}
    folder = RunFolder(run.with_name(f"{SUPERNET}-{seed}"), config)
    with Stopwatch(folder.path / "seconds.json", process_time) as training:
        evaluator = evaluator_of(folder, space, data, recipe, seed=seed, progress=tick)
    if name == SUPERNET:
        return {"seconds": training.total_s}
    budgets = Budgets.of(space, [*priced.values()], low=recipe.low, high=recipe.high)
    grid = budgets.grid(options.budgets)
    asked = dict(zip(budgets.latencies, grid, strict=False))  # rows of other costs are behind
    with Stopwatch(run / "seconds.json", process_time) as watch:
        if name == GENERATOR:
            made = GeneratorTraining(evaluator, space, budgets, recipe, seed)
            generator = made.run(RunFolder(run, config), tick)
            found = {
                device: [answer.architecture for answer in answers(generator, space, requests)]
                for device, requests in asked.items()
            }
        else:
            found = _searched(options, priced, asked, evaluator, seed, run, tick)
    journals = [*run.glob("*.jsonl")]
    evaluated = sum(len(j.read_text().splitlines()) for j in journals if j != metrics_file(run))
    if name == GENERATOR:  # its answers are scored after the imitation and after each epoch
        epochs = recipe.generator_epochs + (recipe.imitation_steps > 0)
        evaluated += epochs * recipe.selected_on
    unseen = Journaled(evaluator.on(data.test), run / "test" / "scores.jsonl")
    rows = {
        device: [
            {
                "budget_ms": request.limits[0].budget,
                "predicted_ms": priced[device].latency_ms(architecture),
                "supernet_top1": _tested(unseen, architecture, tick),
                "architecture": architecture.as_dict(),
            }
            for request, architecture in zip(asked[device], made_for, strict=True)
        ]
        for device, made_for in found.items()
    }
    return {"seconds": watch.total_s, "evaluated": evaluated, "found": rows}


def _tested(unseen: Journaled, architecture: Architecture, tick: Progress) -> float:
    tick(1.0, "test")
    return unseen.score(architecture)


def common_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells of a folder have in common, besides their devices."""
    return chosen(options, "recipe", "changes", "data", "images", "budgets", "evaluations")


def _searched(
    options: argparse.Namespace,
    priced: Mapping[str, PricedSpace],
    asked: Mapping[str, Sequence[Request]],
    evaluator: AnyRelaxedEvaluator,
    seed: int,
    run: Path,
    tick: Progress,
) -> dict[str, list[Architecture]]:
    """By device, what evolution finds for each budget."""
    found: dict[str, list[Architecture]] = {}
    for number, (device, requests) in enumerate(asked.items()):
        journal = Journaled(evaluator, run / f"scores-{number}.jsonl")
        known: dict[Code, float] = {}
        found[device] = [
            _search(
                EncodedSpace(latency_limits([priced[device]], request.limits[0].budget)),
                journal,
                known,
                options.evaluations,
                seed=seed,
                tick=tick,
            )
            for request in requests
        ]
    return found


def _search(
    encoded: EncodedSpace,
    journal: Journaled,
    known: dict[Code, float],
    evaluations: int,
    *,
    seed: int,
    tick: Progress,
) -> Architecture:
    """The best known architecture under one constraint, after a search by evolution.

    Args:
        encoded: The space under the constraint.
        journal: Scores of the device's searches.
        known: Scores by code, to which the search adds its own. As in ``latbench search``, a later
            budget learns from all of them, and its answer may be one of them.
        evaluations: Number of architectures to score.
        seed: Seed of the search.
        tick: Called between two evaluations.
    """

    def scores(codes: Sequence[Code]) -> Iterable[float]:
        found = list(journal.scores([encoded.decode(code) for code in codes]))
        known.update(zip(codes, found, strict=True))
        return found

    search = BLACK_BOXES["surrogate"](encoded, seed=seed)
    for code, score in known.items():
        if encoded.feasible(code):
            search.tell(code, score)
    run_black_box(search, scores, evaluations, progress=tick)
    feasible = [code for code in known if encoded.feasible(code)]
    return encoded.decode(max(feasible, key=known.__getitem__))
