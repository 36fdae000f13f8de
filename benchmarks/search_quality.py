"""Searchers on NAS-Bench-Macro: how far from the true optimum after so many evaluations.

    python benchmarks/search_quality.py ACCURACIES --table TABLE -o FOLDER
        [--searchers evolution,evolution@8,evolution@32] [--hours H]

ACCURACIES is the benchmark's `nas-bench-macro_cifar10.json`; TABLE is made by `latbench profile
cpu-onnxruntime nasbench-macro`. Without a table, `--constraint macs` bounds multiply-accumulates.
Budgets are quantiles over all architectures. An evaluation is one look-up of an accuracy; what an
architecture costs is known beforehand and free, for all searchers. Outsiders propose what is
infeasible or known too, which is not charged either; so the number of their proposals is bounded,
and a search that ends early keeps what it has. A search of one seed and budget is one line of
FOLDER/cells-CONSTRAINT.jsonl, whose name also has a digest of the table; the same command goes on
with what is missing. When the time is up, the table has the seeds that are done. A searcher with
`@8` proposes eight architectures before it learns their scores, as it does for eight workers.

Regret is the accuracy of the best feasible architecture minus that of the best one found, in
percentage points. Intervals are of the mean over seeds, 95 %, Student's t; a seed's regret is its
mean over budgets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from cells import Clock, TimeIsUp, heading, latency_table, published_accuracies, shown
from search_quality_tasks import OUTSIDERS, Task, search

from latbench.json_lines import read_json_lines
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from nas.latency.priced_space import PricedSpace
from nas.optimize.blackbox import BLACK_BOXES
from nas.optimize.constraints import Constraint, Count, Latency, Limit, Quantity
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.enumeration import all_codes
from nas.spaces import make_space
from nas.workflows.search import latencies_digest

COUNTS = (50, 100, 200, 300)
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
SEEDS = 20
WANTED = {50: 0.15, 200: 0.02}  # points, of the best built-in searcher


class Cells:
    """What was done: one JSON line a search."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[tuple[str, float, int], dict[str, Any]] = {}
        for cell in read_json_lines(path, dict[str, Any], cuts=True):
            self._add(cell)

    def record(self, cell: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(cell, allow_nan=False) + "\n")
        self._add(cell)

    def regrets(self, searcher: str, quantile: float, seed: int) -> list[float]:
        """Regrets after each evaluation; empty for a search that is not done, or evaluated none."""
        found: list[float] = self.done.get((searcher, quantile, seed), {}).get("regrets", [])
        return found

    def _add(self, cell: dict[str, Any]) -> None:
        self.done[cell["searcher"], cell["quantile"], cell["seed"]] = cell


def main() -> None:
    """Do the missing cells, then print the table of all that are there."""
    asked = _arguments()
    space = make_space("nasbench-macro")
    evaluator, kept = asked.accuracies, asked.constraint
    if asked.constraint == "macs":
        quantity: Quantity = Count(space, "macs")
    elif asked.table is not None:
        table_file = LatencyTable.open(asked.table)
        quantity = Latency(PricedSpace(space, table_file))
        kept = f"{kept}-{latencies_digest(table_file)[:8]}"
    else:
        sys.exit("give --table TABLE, or --constraint macs")
    names = asked.searchers.split(",") if asked.searchers else [*BLACK_BOXES, *OUTSIDERS]
    everything = EncodedSpace(Constraint((Limit(quantity, 1e15),)))
    listed = all_codes(everything, 10_000)
    assert listed is not None
    codes = [tuple(code) for code in listed.tolist()]
    table = {code: evaluator.score(everything.decode(code)) for code in codes}
    amounts = sorted(
        max(everything.amounts(code)) for code in product(range(3), repeat=len(space.layers))
    )
    tasks = {q: _encoded(quantity, float(np.quantile(amounts, q))) for q in asked.quantiles}
    cells = Cells(asked.output / f"cells-{kept}.jsonl")
    _do(cells, asked, names, tasks, table)
    _print_head(asked, quantity, tasks)
    done = {name: _seeds(cells, name, asked) for name in names}
    curves = {name: _curves(cells, name, asked, seeds) for name, seeds in done.items() if seeds}
    print_table(
        ("searcher", *(f"after {count}" for count in COUNTS), "ms an evaluation", "seeds"),
        [
            (
                name,
                *(shown(curve[:, count - 1].tolist(), ".3f") for count in COUNTS),
                _time(cells, name),
                str(len(curve)),
            )
            for name, curve in curves.items()
        ],
    )
    print_lines([*_ended_early(cells, asked, done), *_verdict(curves, done)])


def _do(
    cells: Cells,
    asked: argparse.Namespace,
    names: list[str],
    tasks: dict[float, EncodedSpace],
    table: dict[Code, float],
) -> None:
    """Do the missing cells, all of one seed before the next, as far as time allows."""
    clock = Clock(asked.hours)
    for seed, name, quantile in product(range(asked.seeds), names, asked.quantiles):
        if (name, quantile, seed) in cells.done:
            continue
        try:
            clock.check()
        except TimeIsUp:
            print("the time is up: the same command goes on from here")
            return
        task = Task(tasks[quantile], table, max(COUNTS))
        ms = search(name, task, seed)
        cells.record(
            {
                "searcher": name,
                "quantile": quantile,
                "seed": seed,
                "regrets": [round(regret, 4) for regret in task.regrets],
                "ms": round(ms, 4),
            }
        )
        print(f"{name}, budget {quantile:.0%}, seed {seed}", file=sys.stderr)


def _seeds(cells: Cells, name: str, asked: argparse.Namespace) -> list[int]:
    """Seeds of a searcher that are done at all budgets, and evaluated something at each."""
    return [
        seed
        for seed in range(asked.seeds)
        if all(cells.regrets(name, quantile, seed) for quantile in asked.quantiles)
    ]


def _encoded(quantity: Quantity, budget: float) -> EncodedSpace:
    return EncodedSpace(Constraint((Limit(quantity, budget),)))


def _curves(cells: Cells, name: str, asked: argparse.Namespace, seeds: list[int]) -> np.ndarray:
    """Regret in points after every evaluation, mean over budgets, ``(seeds, evaluations)``.

    A search that found no more to propose keeps what it has.
    """
    rows = []
    for seed in seeds:
        of_seed = []
        for quantile in asked.quantiles:
            regrets = cells.done[name, quantile, seed]["regrets"]
            of_seed.append(regrets + [regrets[-1]] * (max(COUNTS) - len(regrets)))
        rows.append(np.mean(of_seed, axis=0))
    return np.array(rows)


def _time(cells: Cells, name: str) -> str:
    return f"{np.median([c['ms'] for key, c in cells.done.items() if key[0] == name]):.2f}"


def _ended_early(
    cells: Cells, asked: argparse.Namespace, done: dict[str, list[int]]
) -> Iterator[str]:
    """Searches that found no more to propose, or used up their proposals."""
    for (name, seeds), quantile in product(done.items(), asked.quantiles):
        counts = [len(cells.done[name, quantile, seed]["regrets"]) for seed in seeds]
        short = [count for count in counts if count < max(COUNTS)]
        if short:
            yield (
                f"{name}, budget {quantile:.0%}: {len(short)} of {len(counts)} searches ended "
                f"early, after {np.median(short):.0f} evaluations in the median"
            )


def _verdict(curves: dict[str, np.ndarray], done: dict[str, list[int]]) -> Iterator[str]:
    """The best built-in searcher against what is wanted, and by common seeds against the others."""
    built_in = {name: curve.mean(axis=0) for name, curve in curves.items() if name not in OUTSIDERS}
    if not built_in:
        return
    best = min(built_in, key=lambda name: float(built_in[name].mean()))
    for count, points in WANTED.items():
        found = built_in[best][count - 1]
        yield (
            f"{best}: {found:.3f} points after {count} evaluations, {points} wanted: "
            f"{'met' if found <= points else 'missed'}"
        )
    for name in OUTSIDERS:
        if name in curves:
            common = sorted({*done[best]} & {*done[name]})
            ours, theirs = (
                curves[each][[done[each].index(seed) for seed in common]].mean(axis=0)
                for each in (best, name)
            )
            behind = np.flatnonzero(ours > theirs + 1e-9) + 1
            where = f"behind at {len(behind)}, last {behind[-1]}" if len(behind) else "never behind"
            seeds = f"{len(common)} common seeds"
            yield f"{best} against {name}, {seeds}, at all {max(COUNTS)} counts: {where}"


def _print_head(
    asked: argparse.Namespace, quantity: Quantity, tasks: dict[float, EncodedSpace]
) -> None:
    import optuna
    import pymoo

    versions = {"numpy": np.__version__, "optuna": optuna.__version__, "pymoo": pymoo.__version__}
    budgets = ", ".join(quantity.format(float(task.budgets[0])) for task in tasks.values())
    print_lines(
        [
            *heading(versions),
            f"{quantity.name}; budgets {budgets}; regret in points "
            "after so many evaluations; ms that the proposals of an evaluation took",
            "",
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("accuracies", type=published_accuracies)
    parser.add_argument("--table", type=latency_table)
    parser.add_argument("--constraint", choices=("latency", "macs"), default="latency")
    parser.add_argument("--quantiles", type=float, nargs="+", default=list(QUANTILES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--searchers", help="names with commas between; default all")
    parser.add_argument("--hours", type=float, default=float("inf"), help="default no limit")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/search_quality"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
