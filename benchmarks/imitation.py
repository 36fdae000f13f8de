"""Whether a generator gains by imitating its priors before it sees images, and for how long.

    python benchmarks/imitation.py -o FOLDER [--steps N ...] [--seeds N ...] [--set KEY=VALUE ...]

One supernet a seed, without a latency table: budgets are of MACs, of parameters and of both. On it
one generator is trained for each number of imitation steps, from the same weights and with the same
priors. Printed are, right after the imitation and after the last epoch on images, the mean fitness
of answers under their budgets, Kendall's tau between budgets and what the raw network costs, and
how far that is from the budget; and the fitness of the epoch that is kept. The recipe is
``sgnas-small`` with the settings of ``--set``. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from cells import heading

from latbench.report.terminal import print_lines, print_table, progress_bar
from nas.data import load_data
from nas.recipes import load_recipe
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.generator_training import GeneratorTraining
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.sgnas.searcher import evaluator_of
from nas.spaces import make_space
from nas.training.run_folder import RunFolder

RECIPE = "sgnas-small"
PRIORS = "priors.jsonl"


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--space", default="sgnas-proxyless")
    parser.add_argument("--input-size", type=int, default=16)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for seed in options.seeds for row in _rows(options, seed)]
    print_lines([*heading({"torch": torch.__version__}), f"{options.space}, {options.data}"])
    header = (*("seed", "imitation steps", "after", "fitness", "tau", "raw error", "fitness kept"),)
    print_table(header, rows)


def _rows(options: argparse.Namespace, seed: int) -> list[tuple[str, ...]]:
    """Results of one supernet."""
    recipe = load_recipe(SGNASRecipe, RECIPE, options.changes)
    data = load_data(options.data, input_size=options.input_size, classes=10)
    space = make_space(options.space, options.input_size, 10)
    config = {"changes": options.changes, "space": options.space, "seed": seed}
    budgets = Budgets.of(space, (), low=recipe.low, high=recipe.high)
    rows = []
    with progress_bar("imitation") as progress:
        shared = RunFolder(options.output / f"{seed}", config)
        evaluator = evaluator_of(shared, space, data, recipe, seed=seed, progress=progress)
        for steps in options.steps:
            changed = load_recipe(
                SGNASRecipe, RECIPE, [*options.changes, f"imitation_steps={steps}"]
            )
            folder = RunFolder(options.output / f"{seed}-{steps}", {**config, "steps": steps})
            if (shared.path / PRIORS).exists():
                shutil.copy(shared.path / PRIORS, folder.path)
            GeneratorTraining(evaluator, space, budgets, changed, seed).run(folder, progress)
            shutil.copy(folder.path / PRIORS, shared.path)  # the same for all, evaluated once
            lines = (folder.path / "metrics.jsonl").read_text().splitlines()
            logged = [json.loads(line) for line in lines]
            kept = f"{max(line['score'] for line in logged):.3f}"
            for line in logged:
                last = line["epoch"] == changed.generator_epochs - 1
                if line["phase"] == "imitation" or last:
                    tau, error = line["kendall_tau"], line["raw_error"]
                    said = "" if tau is None else f"{tau:.2f}"
                    after = "imitation" if line["phase"] == "imitation" else "images"
                    rows.append(
                        (
                            *(str(seed), str(steps), after, f"{line['score']:.3f}", said),
                            *(f"{error:.1%}", kept),
                        )
                    )
    return rows


if __name__ == "__main__":
    main()
