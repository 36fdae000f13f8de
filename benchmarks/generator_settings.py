"""What settings of the training of generators are worth, in accuracy of answers and in time.

    python benchmarks/generator_settings.py -o FOLDER
        --vary generator_epochs=8 generator_epochs=2 generator_epochs=2,prior_images=0.25
        [--seeds N ...] [--set KEY=VALUE ...] [--space SPACE] [--data DATA] [--images N]

One supernet a seed, without a latency table: budgets are of MACs, of parameters and of both. On it
one generator is trained with each of the compared settings, with priors of its own, from the same
initial weights. A row has the mean fitness of answers under their budgets on held-out images, after
the imitation of priors, after the last epoch, and of the generator that is kept; Kendall's tau
between budgets and what the raw network costs after the last epoch, and how far that is from the
budget; how many networks were evaluated for priors; and the processor time of priors and training.
The recipe is ``sgnas-small`` with the settings of ``--set``. The same command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import torch
from cells import Stopwatch, heading, shown

from latbench.errors import LatbenchError
from latbench.report.terminal import print_lines, print_table, progress_bar
from nas.data import DATASETS, load_data
from nas.recipes import load_recipe
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.generator_training import GeneratorTraining
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.sgnas.searcher import evaluator_of
from nas.spaces import SPACES, make_space
from nas.training.run_files import metrics_file
from nas.training.run_folder import RunFolder

RECIPE = "sgnas-small"


@dataclass(frozen=True)
class Trained:
    """One generator: what its metrics say, the networks evaluated for its priors, and its time."""

    metrics: Sequence[dict[str, Any]]
    evaluated: int
    seconds: float

    @property
    def kept(self) -> float:
        """Fitness of the generator that is kept."""
        return max(float(line["score"]) for line in self.metrics)

    def row(self) -> tuple[str, ...]:
        """Its columns."""
        imitated = [line for line in self.metrics if line["phase"] == "imitation"]
        last = self.metrics[-1]
        tau = last["kendall_tau"]
        return (
            f"{imitated[0]['score']:.3f}" if imitated else "",
            *(f"{last['score']:.3f}", f"{self.kept:.3f}", "" if tau is None else f"{tau:.2f}"),
            *(f"{last['raw_error']:.1%}", str(self.evaluated), f"{self.seconds:.0f}"),
        )


def main() -> None:
    """Train and print."""
    options = _parse()
    torch.set_num_threads(1)
    compared = options.vary
    found = {seed: _trained(options, seed) for seed in options.seeds}
    print_lines([*heading({"torch": torch.__version__}), f"{options.space}, {options.data}"])
    header = (
        "seed",
        "settings",
        "after imitation",
        "after the last epoch",
        "kept",
        "tau",
        "raw error",
    )
    print_table(
        (*header, "networks evaluated", "processor s"),
        [
            (str(seed), settings, *trained[settings].row())
            for seed, trained in found.items()
            for settings in compared
        ],
    )
    for settings in compared:
        ours = [trained[settings] for trained in found.values()]
        first = [trained[compared[0]] for trained in found.values()]
        line = f"{settings}: kept {shown([each.kept for each in ours], '.3f')}, "
        line += f"{shown([each.seconds for each in ours], '.0f')} s"
        if settings != compared[0]:
            pairs = list(zip(ours, first, strict=True))
            line += f"; ahead of the first by {shown([a.kept - b.kept for a, b in pairs], '+.3f')}"
            line += f", in {shown([a.seconds / b.seconds for a, b in pairs], '.2f')} of its time"
        print_lines([line])


def _parse() -> argparse.Namespace:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--vary", nargs="+", required=True, metavar="KEY=VALUE[,...]")
    asked.add_argument("--space", default="sgnas-proxyless")
    asked.add_argument("--input-size", type=int, default=16)
    asked.add_argument("--data", default="digits")
    asked.add_argument("--images", type=int, help="of the data set; default all")
    asked.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    asked.add_argument("-o", "--output", type=Path, required=True)
    options = asked.parse_args()
    try:
        _ = [load_recipe(SGNASRecipe, RECIPE, _changes(options, each)) for each in options.vary]
        _ = DATASETS[options.data], SPACES[options.space]
    except LatbenchError as error:
        asked.error(error.message)
    return options


def _changes(options: argparse.Namespace, settings: str) -> list[str]:
    return [*options.changes, *settings.split(",")]


def _trained(options: argparse.Namespace, seed: int) -> dict[str, Trained]:
    """By settings, the generator on the supernet of a seed."""
    recipe = load_recipe(SGNASRecipe, RECIPE, options.changes)
    data = load_data(options.data, input_size=options.input_size, classes=10)
    if options.images is not None:
        data = data.subset(options.images, seed=0)
    space = make_space(options.space, options.input_size, 10)
    names = ("changes", "space", "input_size", "data", "images")
    config = {name: getattr(options, name) for name in names} | {"seed": seed}
    budgets = Budgets.of(space, (), low=recipe.low, high=recipe.high)
    found = {}
    with progress_bar(f"seed {seed}") as progress:
        shared = RunFolder(options.output / f"{seed}", config)
        evaluator = evaluator_of(shared, space, data, recipe, seed=seed, progress=progress)
        for settings in options.vary:
            changed = load_recipe(SGNASRecipe, RECIPE, _changes(options, settings))
            run = options.output / f"{seed}-{settings}"
            folder = RunFolder(run, {**config, "settings": settings})
            with Stopwatch(run / "seconds.json", process_time) as watch:
                GeneratorTraining(evaluator, space, budgets, changed, seed).run(folder, progress)
            lines = metrics_file(run).read_text().splitlines()
            evaluated = [path.read_text().splitlines() for path in run.glob("priors*.jsonl")]
            found[settings] = Trained(
                [json.loads(line) for line in lines], sum(map(len, evaluated)), watch.total_s
            )
    return found


if __name__ == "__main__":
    main()
