"""Is the search worth it? Searched, random and published networks of one latency, trained alike.

    python benchmarks/quality.py TABLE --targets 0.4ms,0.6ms,0.9ms --hours H -o FOLDER
        [--generator RUN/generator.safetensors --generator-table TABLE]

TABLE is one of the TF-NAS space for 10 classes, of this machine. At every target there are: what
TF-NAS finds; what evolution, and the best of random networks (100 for each target, and all of them
are candidates for each), find by one supernet that was trained for as many epochs as TF-NAS at all
targets together; one random network; and MobileNetV2, MobileNetV3-small and EfficientNet-B0. With a
trained generator, also its answer. All but the first are then scaled to the latency of the first,
as measured in one interleaved sweep, and all are trained from scratch on Fashion-MNIST by one
recipe, seed by seed, as far as the time allows. The same command goes on.

Prints a table for each target, with 95 % intervals and the seeds done: accuracies, and how far
TF-NAS is ahead, paired by seed. Then the other way round: the latency at which a rival has the
accuracy that TF-NAS has at a target, between the targets by a line over the logarithm of latency.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import (
    Clock,
    Progress,
    TimeIsUp,
    chosen,
    heading,
    latency_table,
    mean_interval,
    parser,
    results,
    run_cells,
    shown,
)
from quality_matching import match
from quality_rivals import SEARCHES, SUPERNET, TFNAS, images, rivals, search

from latbench.blocks import Network, block_key, parse_block
from latbench.cost import network_cost
from latbench.errors import LatbenchError
from latbench.files import write_atomically
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from latbench.units import format_ms, parse_latency_ms
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.training import from_scratch as scratch
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.workflows.search import latencies_digest


def main() -> None:
    """Search, match latencies, train, print."""
    options = _parse()
    clock = Clock.of(options)
    kept = options.output / "table.sqlite"  # a copy: what is measured is no part of the original
    latencies = latencies_digest(LatencyTable.open(options.table))
    if not kept.exists():
        write_atomically(kept, options.table.read_bytes())

    def search_cell(name: str, seed: int, run: Path, tick: Progress) -> dict[str, Any]:
        return search(options, kept, name, run, tick)

    def train_cell(name: str, seed: int, run: Path, tick: Progress) -> dict[str, Any]:
        rival, _, target = name.partition("@")
        return _train(options, kept, _network(options, rival, target), seed, run, tick)

    settings = chosen(options, "images", "epochs", "alpha_lr", "train_epochs")
    settings |= {"targets": [*options.targets], "latencies": latencies}
    for together in SEARCHES:  # those behind need those before
        cells = [(name, 0) for name in together]
        run_cells(options.output, cells, search_cell, clock, asked=options, settings=settings)
        if options.only is None and not all(results(options.output, name) for name in together):
            return
    if options.only is None:
        try:
            _match(options, kept, clock)
        except TimeIsUp:
            print_lines(["the time is up: the same command goes on from here"])
            return
    trainings = [
        (f"{rival}@{target}", seed)
        for seed in range(options.seeds)
        for target in options.targets
        for rival in _matched(options, target)
    ]
    run_cells(options.output, trainings, train_cell, clock, keep=False, asked=options)
    if options.only is None:
        _print(options, kept)


def _parse() -> argparse.Namespace:
    asked = parser(__doc__, one_target=False, side_by_side=True)
    asked.add_argument("table", type=latency_table)
    asked.add_argument("--targets", required=True, help="latencies with commas between")
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--images", type=int, default=20_000)
    asked.add_argument("--epochs", type=int, default=30, help="of the searches")
    asked.add_argument(
        "--alpha-lr",
        type=float,
        default=TFNASRecipe().alpha_lr,
        help="of TF-NAS's alphas; a short search moves them little at the published rate",
    )
    asked.add_argument("--train-epochs", type=int, default=20)
    asked.add_argument("--generator", type=Path, help="file of a trained generator")
    asked.add_argument("--generator-table", type=Path, help="its table, of the same device")
    options = asked.parse_args()
    if (options.generator is None) != (options.generator_table is None):
        asked.error("--generator and --generator-table belong together")
    try:
        options.targets = {word: parse_latency_ms(word) for word in options.targets.split(",")}
        label = LatencyTable.open(options.table).space
    except LatbenchError as error:
        asked.error(error.message)
    if label.name != "tfnas":
        asked.error(f"{options.table} is a table of {label}: give one of the space tfnas")
    return options


def _match(options: argparse.Namespace, table: Path, clock: Clock) -> None:
    """Write sizes, latencies and blocks of the rivals of every target, once.

    Raises:
        TimeIsUp: Before the sizes of a target are known.
    """
    for target in options.targets:
        record = _record(options, target)
        if not record.exists():
            clock.check()
            print_lines([f"latencies of {target}"])
            asked = rivals(options, table, target)
            sizes = match(table, asked, clock)
            found = {
                rival.name: {
                    **sizes[rival.name],
                    "blocks": [block_key(spec) for spec in rival.make(sizes[rival.name]["size"])],
                }
                for rival in asked
            }
            write_atomically(record, json.dumps(found, indent=2, allow_nan=False) + "\n")


def _record(options: argparse.Namespace, target: str) -> Path:
    file: Path = options.output / "matched" / f"{target}.json"
    return file


def _matched(options: argparse.Namespace, target: str) -> dict[str, dict[str, Any]]:
    """Size, measured latency and blocks of the rivals of a target; none before they are known."""
    record = _record(options, target)
    return json.loads(record.read_text()) if record.exists() else {}


def _network(options: argparse.Namespace, rival: str, target: str) -> Network:
    """A rival of a target at its size."""
    return tuple(map(parse_block, _matched(options, target)[rival]["blocks"]))


def _train(
    options: argparse.Namespace, table: Path, network: Network, seed: int, run: Path, tick: Progress
) -> dict[str, Any]:
    """Test accuracy of a network trained from scratch."""
    recipe = TrainingRecipe(epochs=options.train_epochs, seed=seed)
    config = {"images": options.images, "epochs": options.train_epochs, "seed": seed}
    data = images(options, table)
    return {
        "top1": scratch.train(network, data, recipe, RunFolder(run, config), progress=tick)["top1"]
    }


# Printing


def _print(options: argparse.Namespace, table: Path) -> None:
    searches = [name for together in SEARCHES for name in together]
    seconds = {name: results(options.output, name)[0]["seconds"] for name in searches}
    asking = {name: s for name, s in seconds.items() if name not in (TFNAS, SUPERNET)}
    print_lines(
        [
            *heading(LatencyTable.open(table).environment.versions),
            f"{options.images} images of Fashion-MNIST; searches of one seed, of TF-NAS "
            f"{options.epochs} epochs with {options.alpha_lr:g} as learning rate of alphas; "
            f"trainings of {options.train_epochs} epochs",
            f"for all targets TF-NAS took {seconds[TFNAS]:.0f} s of a processor, the supernet "
            f"{seconds[SUPERNET]:.0f} s, "
            + ", ".join(f"{name} another {s:.0f} s" for name, s in asking.items()),
            "",
        ]
    )
    for target in options.targets:
        _print_target(options, target)
    _print_latencies(options)


def _print_target(options: argparse.Namespace, target: str) -> None:
    """The rivals of a target: size, latency, cost, accuracy, and what TF-NAS is ahead by."""
    sizes = _matched(options, target)
    rows = []
    for name in sizes:
        scores = _scores(options, name, target)
        cost = network_cost(_network(options, name, target))
        rows.append(
            (
                name,
                f"x{sizes[name]['size']:.3f}",
                format_ms(sizes[name]["measured_ms"]),
                f"{cost.macs / 1e6:.1f}",
                f"{cost.params / 1e6:.2f}",
                ", ".join(map(str, scores)),
                shown([*scores.values()], ".2%"),
                "" if name == TFNAS else _ahead(_scores(options, TFNAS, target), scores),
            )
        )
    header = (
        *(f"at {target}", "size", "measured", "MACs, M", "parameters, M"),
        *("seeds", "top-1", f"{TFNAS} ahead by"),
    )
    print_table(header, rows)
    print_lines([""])


def _scores(options: argparse.Namespace, rival: str, target: str) -> dict[int, float]:
    """Accuracies by seed."""
    cells = results(options.output, f"{rival}@{target}")
    return {seed: cell["top1"] for seed, cell in cells.items()}


def _ahead(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """A lead over seeds that both have, paired, with its interval, in points."""
    leads = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    mean, half = mean_interval(leads)
    if np.isnan(mean):
        return ""
    return f"{100 * mean:+.2f}" + ("" if np.isnan(half) else f" ± {100 * half:.2f}") + " points"


def _print_latencies(options: argparse.Namespace) -> None:
    """By rival and target, the latency at which it is as accurate as TF-NAS is there."""
    names = [*_matched(options, next(iter(options.targets)))]
    matched = [_matched(options, target) for target in options.targets]
    at_ms = {name: [sizes[name]["measured_ms"] for sizes in matched] for name in names}
    scores = {
        name: [_scores(options, name, target) for target in options.targets] for name in names
    }
    means = {
        name: [mean_interval([*by_seed.values()])[0] for by_seed in found]
        for name, found in scores.items()
    }
    rows = []
    for name in names:
        found = [latency_at(wanted, means[name], at_ms[name]) for wanted in means[TFNAS]]
        rows.append((name, *found))
    header = [f"as {TFNAS} at {target}" for target in options.targets]
    print_table(("the same accuracy needs", *header), rows)


def latency_at(accuracy: float, accuracies: Sequence[float], latencies_ms: Sequence[float]) -> str:
    """The lowest latency with an accuracy, on lines between points, in words.

    Args:
        accuracy: The accuracy; the words are empty if it or one of the points is NaN.
        accuracies: Accuracies of networks.
        latencies_ms: Their latencies in ms.
    """
    if np.isnan([accuracy, *accuracies]).any():
        return ""
    order = np.argsort(latencies_ms, kind="stable")
    accuracies = [accuracies[i] for i in order]
    latencies_ms = [latencies_ms[i] for i in order]
    logs = np.log(latencies_ms)
    if accuracies[0] >= accuracy:
        return f"at most {format_ms(latencies_ms[0])}"
    for i in range(1, len(accuracies)):
        if accuracies[i] >= accuracy:
            part = (accuracy - accuracies[i - 1]) / (accuracies[i] - accuracies[i - 1])
            return format_ms(float(np.exp(logs[i - 1] + part * (logs[i] - logs[i - 1]))))
    return f"above {format_ms(latencies_ms[-1])}"


if __name__ == "__main__":
    main()
