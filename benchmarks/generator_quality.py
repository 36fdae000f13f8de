"""Answers of a trained generator: kept budgets, and accuracy beside random networks as fast.

    python benchmarks/generator_quality.py RUN --table TABLE [--table TABLE] --hours H -o FOLDER

RUN is the folder of a finished `latbench search SPACE --searcher sgnas` on images of classes that
were held out from the training images, each TABLE one of this machine for a device that the search
knew. On every device budgets are spread evenly over the trained range and answered in one batch;
the answers are measured against the table in a process of their own; and each is compared with
random networks whose predicted latency is within 2 % of its own. Accuracies are the supernet's,
batch norms calibrated, on test images, which no training and no selection has seen; the same images
for all. The thirds of the budgets are compared on all test images, with the interval of the paired
difference over images. A network is evaluated once; the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from cells import Clock, TimeIsUp, heading, latency_table, shown
from numpy.typing import NDArray

from latbench.files import write_atomically
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from nas.data import load_data
from nas.data.images import generator as random_order
from nas.evaluators.journal import Journaled
from nas.evaluators.relaxed import AnyRelaxedEvaluator
from nas.generator import answers, load_generator, plane_of
from nas.latency.priced_space import PricedSpace
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.recipe import read_run
from nas.searchers.sgnas.searcher import evaluator_of
from nas.spaces import Architecture, SearchSpace, load_architecture
from nas.training.run_files import generator_file
from nas.training.run_folder import RunFolder
from nas.workflows.inputs import priced_by

Hits = NDArray[np.bool_]

NEAR = 0.02  # distance of random networks from an answer, as a part of its latency
THIRDS = 3
_DRAWS = 1_000_000  # random networks, after which a latency counts as one that none has


def main() -> None:
    """Answer, measure, evaluate, print."""
    options = _parse()
    torch.set_num_threads(options.threads)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    asked = {path: _asked(options, path) for path in options.table}
    if not options.unmeasured:
        for path, files in asked.items():
            _measure(path, files, folder / f"measured-{path.stem}.json")
    evaluator = _evaluator_of(options.run, _priced(options.table[0]).space)
    clock = Clock(options.hours)
    try:
        thirds = {
            table: _hits(evaluator, [*files.values()], folder / f"thirds-{table.stem}.npz", clock)
            for table, files in asked.items()
        }
        scores = _evaluate(options, evaluator, asked, clock)
    except TimeIsUp:
        print_lines(["the time is up: the same command goes on from here"])
        return
    _print(options, asked, scores, thirds)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--table", type=latency_table, action="append", required=True)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--budgets", type=int, default=10, help="a device")
    parser.add_argument("--random", type=int, default=100, help="networks beside each answer")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--unmeasured", action="store_true", help="evaluate without measuring")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def _asked(options: argparse.Namespace, table: Path) -> dict[float, Path]:
    """Files of answers by budget in ms, from one batch."""
    made = load_generator(generator_file(options.run))
    priced = _priced(table)
    budgets = Budgets.of(priced.space, [priced], low=made.label.low, high=made.label.high)
    requests = budgets.grid(options.budgets)[0]
    folder = options.output / table.stem
    said = {
        folder / f"{request}.json": answer.architecture.to_json()
        for request, answer in zip(requests, answers(made, priced.space, requests), strict=True)
    }
    known = {file: file.read_text() for file in folder.glob("*.json")}
    if not known.items() <= said.items():
        raise SystemExit(
            f"{folder} holds other answers: run or table have changed since; choose another -o"
        )
    for file, text in said.items():
        write_atomically(file, text)
    return {request.limits[0].budget: file for request, file in zip(requests, said, strict=True)}


def _measure(table: Path, files: dict[float, Path], record: Path) -> None:
    """Verify in one interleaved sweep, by a process that does nothing else."""
    if record.exists():
        return
    command = ["verify", *files.values(), "--table", table, "--tolerance", 1, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "cli", *map(str, command)], check=True, stdout=subprocess.PIPE
    )
    write_atomically(record, done.stdout)


def _evaluate(
    options: argparse.Namespace,
    evaluator: AnyRelaxedEvaluator,
    asked: dict[Path, dict[float, Path]],
    clock: Clock,
) -> dict[Path, list[tuple[float, list[float]]]]:
    """By table, for each answer its accuracy and those of the random networks beside it."""
    priced = {table: _priced(table) for table in asked}
    unseen = evaluator.parts.selection
    some = unseen.take(torch.arange(min(options.images, len(unseen))))
    journaled = Journaled(
        evaluator.on(some),
        options.output / f"scores-{options.images}.jsonl",
    )

    def score(architecture: Architecture) -> float:
        clock.check()
        return journaled.score(architecture)

    scores: dict[Path, list[tuple[float, list[float]]]] = {table: [] for table in asked}
    for number in range(options.budgets):  # in turn, so that what is done is of all devices
        for table, files in asked.items():
            answer = load_architecture(list(files.values())[number])
            latency_ms = priced[table].latency_ms(answer)
            near = _near(priced[table], latency_ms, options.random, seed=number)
            scores[table].append((score(answer), [score(network) for network in near]))
    return scores


def _hits(evaluator: AnyRelaxedEvaluator, files: list[Path], record: Path, clock: Clock) -> Hits:
    """Mask of the test images that each answer of two thirds classifies: ``(2, third, N)``."""
    if record.exists():
        found: Hits = np.load(record)["hits"]
        return found
    third = max(1, len(files) // THIRDS)
    rows = []
    for file in (*files[:third], *files[-third:]):
        clock.check()
        rows.append(evaluator.hits(load_architecture(file)).numpy())
    made = np.array(rows).reshape(2, third, -1)
    with BytesIO() as file:
        np.savez_compressed(file, hits=made)
        write_atomically(record, file.getvalue())
    return made


def _evaluator_of(folder: Path, space: SearchSpace) -> AnyRelaxedEvaluator:
    """The run's supernet, evaluated on all test images, in an order by the run's seed."""
    config, recipe = read_run(folder)
    data = load_data(config["data"], input_size=space.input_size, classes=space.classes)
    if config["images"] is not None:
        data = data.subset(config["images"], seed=0)
    evaluator = evaluator_of(RunFolder(folder, config), space, data, recipe, seed=config["seed"])
    order = torch.randperm(len(data.test), generator=random_order(config["seed"]))
    unseen = data.test.take(order)
    return evaluator.on(unseen)


def _near(priced: PricedSpace, latency_ms: float, count: int, *, seed: int) -> list[Architecture]:
    """Random networks that are about as fast."""
    rng, plane = np.random.default_rng(seed), plane_of(priced.space)
    found: list[Architecture] = []
    for _ in range(_DRAWS):
        if len(found) == count:
            return found
        drawn = plane.chosen(plane.random(rng))
        if abs(priced.latency_ms(drawn) / latency_ms - 1) <= NEAR:
            found.append(drawn)
    raise SystemExit(
        f"fewer than {count} of {_DRAWS} random networks come near {latency_ms:.4g} ms"
    )


def _priced(table: Path) -> PricedSpace:
    opened = LatencyTable.open(table)
    return priced_by(opened, "any")


def _print(
    options: argparse.Namespace,
    asked: dict[Path, dict[float, Path]],
    scores: dict[Path, list[tuple[float, list[float]]]],
    thirds: dict[Path, Hits],
) -> None:
    print_lines(
        [
            *heading({"torch": torch.__version__}),
            f"accuracies on {options.images} test images, {options.random} random networks within "
            f"{NEAR:.0%} of each answer's predicted latency",
        ]
    )
    for table, files in asked.items():
        priced = _priced(table)
        record = options.output / f"measured-{table.stem}.json"
        verified = json.loads(record.read_text()) if record.exists() else None
        errors = [row["error"] for row in verified["rows"]] if verified else [None] * len(files)
        rows, ahead = [], 0
        for (budget, file), error, (score, others) in zip(
            files.items(), errors, scores[table], strict=True
        ):
            predicted_ms = priced.latency_ms(load_architecture(file))
            median = float(np.median(others))
            ahead += score > median
            rows.append(
                (
                    f"{budget:.4g} ms",
                    f"{predicted_ms / budget - 1:+.2%}",
                    "" if error is None else f"{error:+.1%}",
                    f"{score:.1%}",
                    f"{median:.1%}",
                    f"{np.mean(np.array(others) < score):.0%}",
                )
            )
        print_lines(["", priced.table.device.name])
        header = (
            *("budget", "predicted from it", "predicted from measured"),
            *("accuracy", "random, median", "random below it"),
        )
        print_table(header, rows)
        lower, upper = thirds[table].mean(axis=1)  # (N,) each, by image
        about = [
            f"ahead of the median at {ahead} of {len(rows)} budgets",
            f"on {len(lower)} test images: lower third of budgets {lower.mean():.1%}, upper third "
            f"{upper.mean():.1%}, ahead by {shown((upper - lower).tolist(), '.2%')}",
        ]
        if verified:
            about.append(
                f"predicted from measured: mean {verified['mape']:.1%}, largest "
                f"{verified['max_error']:.1%}; networks against themselves {verified['floor']:.1%}"
            )
            if verified["drift"] is not None:
                about.append(
                    f"without the machine's drift of {verified['drift'] - 1:+.1%} since profiling: "
                    f"mean {verified['mape_drift_corrected']:.1%}, largest "
                    f"{verified['max_error_drift_corrected']:.1%}"
                )
        print_lines(about)


if __name__ == "__main__":
    main()
