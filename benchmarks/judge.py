"""The supernet as a judge: which strategy ranks networks most like trainings from scratch?

    python benchmarks/judge.py --hours H -o FOLDER [--accuracies FILE] [--trials A,B]
        [--strategies uniform,fair,sandwich,uniform+alike] [--seeds N]

A cell is a trial, a strategy and a seed: one supernet scores a fixed sample of networks on held-out
images, with calibrated norms, as in a search. The trial of NAS-Bench-Macro compares the scores with
the accuracies that the benchmark published: FILE is its `nas-bench-macro_cifar10.json`. The trials
of two small spaces compare them with trainings from scratch on the same images, which are cells of
their own and shared by all strategies. The sizes of the trials are in `judge_cells.py`. A strategy
that trains k paths a step has a k-th of the epochs, so all compute about as much. After ``+alike``
the operations of a layer start as nearly the same function.

Cells are run trial by trial, all of one seed before the next, until the time is up; the same
command goes on. Prints a table for each trial. Two intervals, both of 95 %: Student's t over seeds
(±), and a bootstrap over networks (in brackets), which resamples the same networks for all
strategies. The multiply-accumulates of a network are a score as well: a judge should be better.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import (
    CONFIDENCE,
    Clock,
    Progress,
    heading,
    mean_interval,
    parser,
    published_accuracies,
    results,
    run_cells,
)
from cells import shown as with_interval
from judge_cells import (
    ALIKE,
    BATCH_SIZE,
    DATA,
    PUBLISHED,
    SCRATCH,
    TRIALS,
    Trial,
    published_entry,
    run_cell,
    sample,
)
from judge_ranks import Ranks, Resampled, Values, interval, ranks

from latbench.cost import network_cost
from latbench.errors import LatbenchError
from latbench.report.terminal import print_lines, print_table
from nas.evaluators.tabular import TabularEvaluator
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.spaces import Architecture
from nas.training.strategies import STRATEGIES

DEFAULT = OneShotRecipe().strategy
_SCRATCH_SEEDS = 2  # at most: they are as expensive as three supernets


def main() -> None:
    """Run cells while there is time, then print what is done."""
    options = parse()
    published = options.accuracies
    networks = {
        name: sample(TRIALS[name], published if TRIALS[name].space == PUBLISHED else None)
        for name in options.trials
    }
    sizes = {name: trial.settings() for name, trial in TRIALS.items()}

    def work(cell: str, seed: int, run: Path, tick: Progress) -> dict[str, Any]:
        name, _, strategy = cell.partition("_")
        return run_cell(TRIALS[name], strategy, networks[name], seed=seed, run=run, tick=tick)

    cells, clock = _cells(options), Clock.of(options)
    run_cells(options.output, cells, work, clock, keep=False, asked=options, settings=sizes)
    if options.only is not None:
        return
    print_lines([*heading({"torch": torch.__version__}), ""])
    for name in options.trials:
        _print(options, name, networks[name], published)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command; those of this process if no arguments are given."""
    asked = parser(__doc__, one_target=False, side_by_side=True)
    asked.add_argument("--accuracies", type=published_accuracies, help="file of NAS-Bench-Macro")
    asked.add_argument("--trials", type=_names, help=f"of {','.join(TRIALS)}; default all")
    asked.add_argument(
        "--strategies", type=_names, default=["uniform", "fair", "sandwich", f"uniform{ALIKE}"]
    )
    asked.add_argument("--seeds", type=int, default=3, help="at most")
    options = asked.parse_args(arguments)
    if options.trials is None:
        known = options.accuracies is not None
        options.trials = [n for n, t in TRIALS.items() if known or t.scratch_epochs]
    for name in options.trials:
        if name not in TRIALS:
            asked.error(f"no trial is called {name}: choose from {', '.join(TRIALS)}")
        if options.accuracies is None and not TRIALS[name].scratch_epochs:
            asked.error(f"{name} needs --accuracies FILE, its nas-bench-macro_cifar10.json")
    try:
        _ = [STRATEGIES[name.removesuffix(ALIKE)] for name in options.strategies]
    except LatbenchError as error:
        asked.error(error.message)
    return options


def _names(text: str) -> list[str]:
    return text.split(",")


def _cells(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Names, such as ``tfnas-short_fair``, and seeds, in order."""
    for name in options.trials:
        for seed in range(options.seeds):
            for strategy in options.strategies:
                yield f"{name}_{strategy}", seed
            if TRIALS[name].scratch_epochs and seed < _SCRATCH_SEEDS:
                yield f"{name}_{SCRATCH}", seed


# Printing


def _print(
    options: argparse.Namespace,
    name: str,
    networks: Sequence[Architecture],
    published: TabularEvaluator | None,
) -> None:
    """The table of one trial, or a line that says why there is none yet."""
    trial = TRIALS[name]
    trainings = _trainings(options, name, networks, published)
    if not len(trainings):
        print_lines([f"{name}: no training from scratch is done yet", *_costs(options, name), ""])
        return
    accuracies = trainings.mean(axis=0)
    print_lines([_sizes(name, trial, accuracies), *_costs(options, name)])
    resampled = Resampled(accuracies)
    cells = {strategy: _scores(options, name, strategy) for strategy in options.strategies}
    done = {strategy: np.array([*by_seed.values()]) for strategy, by_seed in cells.items()}
    taus = {strategy: resampled.taus(scores) for strategy, scores in done.items() if len(scores)}
    rows = []
    for strategy, resampled_taus in taus.items():
        found = [ranks(scores, accuracies) for scores in done[strategy]]
        ahead = ("", "")
        if strategy != DEFAULT and DEFAULT in taus:
            ahead = _ahead(cells[strategy], cells[DEFAULT], resampled)
        seeds = ", ".join(map(str, cells[strategy]))
        rows.append((strategy, *_columns(found, resampled_taus), *ahead, seeds))
    space = trial.make_space()
    macs = np.array([[float(network_cost(space.lower(made)).macs) for made in networks]])
    alone = _columns([ranks(macs[0], accuracies)], resampled.taus(macs))
    rows.append(("MACs alone", *alone, "", "", ""))
    print_table(_HEADER, rows)
    print_lines([*_ceiling(trainings), ""])


_HEADER = (
    *("strategy", "tau", "over networks", "rho", "best tenth found", "regret, points"),
    *(f"tau ahead of {DEFAULT}", "over networks", "seeds"),
)


def _sizes(name: str, trial: Trial, accuracies: Values) -> str:
    """What was compared with what, in words."""
    truth = (
        f"test accuracies after {trial.scratch_epochs} epochs from scratch, {trial.tested} images"
        if trial.scratch_epochs
        else "published accuracies on CIFAR-10 at 32 px"
    )
    return (
        f"{name}: {trial.networks} networks, {truth} ({accuracies.min():.1%} to "
        f"{accuracies.max():.1%}); supernets: {trial.images} images of {DATA} at "
        f"{trial.input_size} px, a fifth held out, {trial.paths} paths an image, "
        f"batches of {BATCH_SIZE}"
    )


def _costs(options: argparse.Namespace, name: str) -> Iterator[str]:
    """Epochs, accuracy and processor time of the supernets, by strategy."""
    for strategy in options.strategies:
        found = [*results(options.output, f"{name}_{strategy}").values()]
        if found:
            mean = {key: np.mean([cell[key] for cell in found]) for key in _TIMES}
            accuracies = [float(np.mean(cell["accuracies"])) for cell in found]
            yield (
                f"{strategy}: {found[0]['epochs']} epochs, training {mean['training_s']:.0f} s and "
                f"scoring {mean['scoring_s']:.0f} s of a processor, mean accuracy of the networks "
                f"{with_interval(accuracies)} over {len(found)} seeds"
            )


_TIMES = ("training_s", "scoring_s")


def _trainings(
    options: argparse.Namespace,
    name: str,
    networks: Sequence[Architecture],
    published: TabularEvaluator | None,
) -> Values:
    """Accuracies of separate trainings, ``(trainings, N)``."""
    if not TRIALS[name].scratch_epochs:
        assert published is not None
        entries = [published_entry(published, made) for made in networks]
        return np.array([entry.test_acc for entry in entries]).T / 100
    cells = results(options.output, f"{name}_{SCRATCH}").values()
    return np.array([cell["accuracies"] for cell in cells])


def _scores(options: argparse.Namespace, name: str, strategy: str) -> dict[int, Values]:
    """Scores ``(N,)`` by the supernets of a strategy, by seed."""
    cells = results(options.output, f"{name}_{strategy}")
    wanted = {seed: cell for seed, cell in cells.items() if seed < options.seeds}
    return {seed: np.array(cell["accuracies"]) for seed, cell in wanted.items()}


def _columns(found: Sequence[Ranks], taus: Values) -> tuple[str, ...]:
    """Mean and intervals of how several supernets rank networks."""
    return (
        with_interval([each.tau for each in found], ".3f"),
        _brackets(taus),
        with_interval([each.rho for each in found], ".3f"),
        with_interval([each.top for each in found], ".0%"),
        with_interval([each.regret for each in found], ".2f"),
    )


def _ahead(
    ours: dict[int, Values], theirs: dict[int, Values], resampled: Resampled
) -> tuple[str, str]:
    """How far tau is above that of the default strategy, on the seeds that both have."""
    shared = [seed for seed in ours if seed in theirs]
    if not shared:
        return "", ""
    pairs = [np.array([by_seed[seed] for seed in shared]) for by_seed in (ours, theirs)]
    found = [[ranks(row, resampled.accuracies).tau for row in scores] for scores in pairs]
    mean, half = mean_interval([a - b for a, b in zip(*found, strict=True)])
    differences = resampled.taus(pairs[0]) - resampled.taus(pairs[1])
    low, high = interval(differences)
    clear = (mean - half > 0 and low > 0) or (mean + half < 0 and high < 0)
    seeds = "" if np.isnan(half) else f" ± {half:.3f}"
    return f"{mean:+.3f}{seeds}", f"{_brackets(differences)}{', clear' if clear else ''}"


def _brackets(values: Values) -> str:
    low, high = interval(values)
    return f"[{low:.3f}, {high:.3f}]"


def _ceiling(trainings: Values) -> list[str]:
    """How well trainings that differ by their seeds rank each other's networks."""
    if len(trainings) < 2:
        return []
    found = [
        ranks(trainings[i], np.delete(trainings, i, axis=0).mean(axis=0)).tau
        for i in range(len(trainings))
    ]
    return [
        f"a training against the other {len(trainings) - 1} of the same networks: tau "
        f"{np.mean(found):.3f}; intervals: {CONFIDENCE:.0%}"
    ]


if __name__ == "__main__":
    main()
