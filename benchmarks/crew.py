"""Several workers against one: time of an answer.

    python benchmarks/crew.py [--ray local] [--rounds 3]

The work either waits for a second, as an evaluation elsewhere does, or scores networks of
NAS-Bench-Macro by a supernet with one thread. Workers begin before the clock starts. The counts of
workers are compared in turn, round by round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
from cells import heading, shown
from torch import nn

import nas
from latbench.report.terminal import print_lines, print_table
from nas.crew.base import CrewSettings, make_crew
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.searchers.with_supernet import supernet_of

WAITS, SCORES = "waits 1 s", "scores a network"
COUNTS = {WAITS: (1, 8), SCORES: (1, 2, 4)}
TASKS = 4  # for each worker
Work = tuple[Callable[[Any], Any], Callable[[int], Sequence[Any]]]
"""What a worker does, and a function that makes so many tasks."""


def main() -> None:
    """Measure all counts of workers in turn, and print times an answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--ray", help="address of a Ray cluster instead of processes")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    works: dict[str, Work] = {WAITS: (sleep, lambda count: [1.0] * count), SCORES: _scoring()}
    taken_s: dict[tuple[str, int], list[float]] = {}
    for _ in range(asked.rounds):
        for kind, counts in COUNTS.items():
            for count in counts:
                found = _answer_s(works[kind], count, asked.ray)
                taken_s.setdefault((kind, count), []).append(found)
    print_lines(heading({"torch": torch.__version__}))
    one_s = {kind: float(np.mean(taken_s[kind, 1])) for kind in COUNTS}
    print_table(
        ("work", "workers", "s an answer", "times as fast as one"),
        [
            (kind, str(count), shown(values, ".3f"), f"{one_s[kind] / np.mean(values):.2f}")
            for (kind, count), values in taken_s.items()
        ],
    )


def _scoring() -> Work:
    space = nas.make_space("nasbench-macro", input_size=32, classes=10)
    data = nas.load_data("digits", input_size=32, classes=10, images=1000)
    train, selection = data.held_out(0.2, seed=0)
    evaluator = SupernetEvaluator(
        supernet_of(space, seed=0),
        data,
        criterion=nn.CrossEntropyLoss(),
        calibration=train,
        selection=selection,
    )
    return evaluator.score, lambda count: [space.random(seed=i % TASKS) for i in range(count)]


def _answer_s(work: Work, count: int, ray: str | None) -> float:
    """Time of an answer in s, once the workers have begun."""
    function, tasks_of = work
    tasks = tasks_of(TASKS * count)
    with make_crew(function, CrewSettings(count, ray), at_once=count) as crew:
        list(crew.map(tasks[:count]))
        begin = perf_counter()
        list(crew.map(tasks))
        return (perf_counter() - begin) / len(tasks)


if __name__ == "__main__":
    main()
