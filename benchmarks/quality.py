"""A searched network against scaled published ones at the same measured latency.

    python benchmarks/quality.py TABLE --target 1.5ms --hours H -o FOLDER

TABLE is one of the TF-NAS space for 10 classes, of this machine. One search on Fashion-MNIST at the
target; then MobileNetV2, MobileNetV3-small and EfficientNet-B0 get the width multiplier at which
their latency, measured in one interleaved sweep with the searched network, is within 1 % of its
own; then all are trained from scratch by the same recipe, seed by seed, as far as the time allows.
The same command goes on. Prints accuracies with 95 % intervals and the seeds done.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from baselines import BASELINES
from cells import (
    Clock,
    Progress,
    TimeIsUp,
    heading,
    mean_interval,
    parser,
    results,
    run_cells,
    shown,
)
from numpy.typing import NDArray

from latbench.blocks import Network
from latbench.cost import network_cost
from latbench.files import write_atomically
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from latbench.workflows.network_sweep import measure_networks
from nas.spaces import load_architecture, space_of

Floats = NDArray[np.float64]

SEARCHED = "searched"
TOLERANCE = 0.01  # of the searched network's latency
ROUNDS = 8
_FIRST_MULTIPLIERS = np.geomspace(0.15, 2.0, 6)
_QUICK_VISITS = 12  # of a network, while its multiplier is looked for
_SLOPES = (0.7, 2.0)  # of log latency over log multiplier, at least and at most
_LONGEST_STEP = np.log(2.5)
_SPREAD = (0.97, 0.99, 1.0, 1.01, 1.03)  # multipliers tried around the best guess


def main() -> None:
    """Search, match latencies, train, print."""
    os.environ.setdefault("COLUMNS", "150")  # of a pipe rich assumes 80
    options = _parse()
    folder: Path = options.output
    clock = Clock(options.hours)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table.sqlite"  # a copy: what is measured here is no part of the original
    if not table.exists():
        shutil.copy(options.table, table)
    try:
        architecture = _search(options, table, folder / "search")
        networks = _matched(table, architecture, folder / "matched.json", clock)
        run_cells(
            folder,
            [(name, seed) for seed in range(options.seeds) for name in networks],
            lambda name, seed, run, tick: _train(options, networks[name], seed, run, tick),
            clock,
        )
    except TimeIsUp:
        print_lines(["the time is up: the same command goes on from here"])
        return
    _print(table, folder, networks)


def _parse() -> argparse.Namespace:
    asked = parser(__doc__)
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--images", type=int, default=20_000)
    asked.add_argument("--epochs", type=int, default=30, help="of the search")
    asked.add_argument("--train-epochs", type=int, default=20)
    asked.add_argument("--architecture", type=Path, help="compare this one, without a search")
    return asked.parse_args()


def _search(options: argparse.Namespace, table: Path, run: Path) -> Path:
    """The searched architecture's file; the search goes on in a process of its own."""
    if options.architecture is not None:
        return Path(options.architecture)
    command = [
        *(sys.executable, "-m", "cli", "search", "tfnas", "--table", table),
        *("--target", options.target, "--data", "fashion-mnist", "--images", options.images),
        *("--epochs", options.epochs, "-o", run),
    ]
    subprocess.run([str(part) for part in command], check=True)
    (found,) = (run / "architectures").iterdir()
    return found


def _matched(path: Path, architecture: Path, record: Path, clock: Clock) -> dict[str, Network]:
    """The searched network and its rivals, scaled to its measured latency."""
    arch = load_architecture(architecture)
    space = space_of(arch)
    searched = space.lower(arch)
    if not record.exists():
        write_atomically(
            record, json.dumps(_match(path, searched, clock), indent=2, allow_nan=False) + "\n"
        )
    found = json.loads(record.read_text())
    scales = {name: found[name]["multiplier"] for name in BASELINES}
    label = LatencyTable.open(path).space
    return {SEARCHED: searched} | {
        name: make(scales[name], label.input_size, label.classes)
        for name, make in BASELINES.items()
    }


def _match(path: Path, searched: Network, clock: Clock) -> dict[str, Any]:
    """By baseline, the multiplier, and latencies of both as measured in one sweep."""
    label = LatencyTable.open(path).space
    slopes: dict[str, float] = {}
    guesses = {name: [float(m) for m in _FIRST_MULTIPLIERS] for name in BASELINES}
    quick = True  # until all look equal; what counts is measured in full
    for number in range(ROUNDS):
        clock.check()
        pairs = [(name, multiplier) for name in BASELINES for multiplier in guesses[name]]
        networks = [
            BASELINES[name](multiplier, label.input_size, label.classes)
            for name, multiplier in pairs
        ]
        measured_ms = _measure(path, [searched, *networks], quick=quick)
        ours_ms, theirs_ms = measured_ms[0], measured_ms[1:]
        away = {pair: ms / ours_ms - 1 for pair, ms in zip(pairs, theirs_ms, strict=True)}
        best = {n: min(guesses[n], key=lambda m, n=n: abs(away[n, m])) for n in BASELINES}
        print_lines(
            [
                f"round {number + 1}: searched {ours_ms:.4g} ms, "
                + ", ".join(f"{n} x{m:.4f} {away[n, m]:+.2%}" for n, m in best.items())
            ]
        )
        if all(abs(away[n, m]) <= TOLERANCE for n, m in best.items()):
            if not quick:
                break
            quick = False
        quick = quick and number < ROUNDS - 2
        for name in BASELINES:
            ratios = {m: 1 + away[name, m] for m in guesses[name]}
            if name in slopes:
                middle = _corrected(ratios, slopes[name])
            else:
                middle, slopes[name] = _where_equal(ratios)
            guesses[name] = sorted({best[name], *(middle * spread for spread in _SPREAD)})
    return {SEARCHED: {"measured_ms": ours_ms}} | {
        name: {
            "multiplier": multiplier,
            "measured_ms": ours_ms * (1 + away[name, multiplier]),
            "away": away[name, multiplier],
        }
        for name, multiplier in best.items()
    }


def _where_equal(ratios: dict[float, float]) -> tuple[float, float]:
    """The multiplier at which latency equals, and the slope of latency there, in logarithms.

    From the two multipliers around it, or the two nearest.

    Args:
        ratios: By multiplier, far from each other, latency over that of the searched network.
    """
    multipliers, away = _logarithms(ratios)
    above = int(np.clip(np.searchsorted(away, 0.0), 1, len(away) - 1))
    rise = away[above] - away[above - 1]
    slope = float(np.clip(rise / (multipliers[above] - multipliers[above - 1]), *_SLOPES))
    nearest = min(above - 1, above, key=lambda i: abs(away[i]))
    return _along(slope, multipliers[nearest], away[nearest]), slope


def _corrected(ratios: dict[float, float], slope: float) -> float:
    """The same from multipliers near each other, whose own slope is lost in their noise.

    Of one round alone: what earlier ones measured was another minute's machine.
    """
    multipliers, away = _logarithms(ratios)
    return _along(slope, multipliers.mean(), away.mean())


def _logarithms(ratios: dict[float, float]) -> tuple[Floats, Floats]:
    """Multipliers and ratios, by ascending multiplier."""
    multipliers = sorted(ratios)
    return np.log(multipliers), np.log([ratios[m] for m in multipliers])


def _along(slope: float, multiplier: float, away: float) -> float:
    """Where a line through a point of logarithms says equal; not too far from the point."""
    return float(np.exp(multiplier + np.clip(-away / slope, -_LONGEST_STEP, _LONGEST_STEP)))


def _measure(path: Path, networks: Sequence[Network], *, quick: bool) -> list[float]:
    """Latencies in ms of one interleaved sweep, of equal networks the same."""
    table = LatencyTable.open(path)
    device = table.device
    if quick:
        sweep = msgspec.structs.replace(device.sweep, verify_visits=_QUICK_VISITS)
        device = msgspec.structs.replace(device, sweep=sweep)
    distinct = list(dict.fromkeys(networks))
    found = measure_networks(make_profiler(device), table, distinct, purpose="verification")
    latencies = {n: i.estimate_ms for n, i in zip(distinct, found.measured, strict=True)}
    return [latencies[network] for network in networks]


def _train(
    options: argparse.Namespace, network: Network, seed: int, run: Path, tick: Progress
) -> dict[str, Any]:
    from nas.data import load_data
    from nas.training import from_scratch as scratch
    from nas.training.recipe import TrainingRecipe
    from nas.training.run_folder import RunFolder

    shape = network_shape(network)
    data = load_data("fashion-mnist", input_size=shape[0], classes=shape[1])
    data = data.subset(options.images, seed=0)
    recipe = TrainingRecipe(epochs=options.train_epochs, seed=seed)
    config = {"images": options.images, "epochs": options.train_epochs, "seed": seed}
    score = scratch.train(network, data, recipe, RunFolder(run, config), progress=tick)
    return {"top1": score["top1"]}


def network_shape(network: Network) -> tuple[int, int]:
    """Input size in pixels and number of classes."""
    return network[0].input_size, network[-1].classes  # type: ignore[attr-defined]


def _print(path: Path, folder: Path, networks: dict[str, Network]) -> None:
    matched = json.loads((folder / "matched.json").read_text())
    print_lines(
        [
            *heading(LatencyTable.open(path).environment.versions),
            "",
        ]
    )
    ours = [cell["top1"] for cell in results(folder, SEARCHED).values()]
    rows = []
    for name, network in networks.items():
        found = results(folder, name)
        scores = [cell["top1"] for cell in found.values()]
        cost = network_cost(network)
        ahead = "" if name == SEARCHED else _ahead(folder, name)
        rows.append(
            (
                name,
                f"x{matched[name]['multiplier']:.3f}" if name in BASELINES else "",
                f"{matched[name]['measured_ms']:.4g} ms",
                f"{cost.macs / 1e6:.1f}",
                f"{cost.params / 1e6:.2f}",
                ", ".join(map(str, found)),
                shown(scores, ".2%"),
                ahead,
            )
        )
    header = (
        *("network", "width", "measured", "MACs, M", "parameters, M"),
        *("seeds", "top-1", "searched ahead by"),
    )
    print_table(header, rows)
    if len(ours) < 3:
        print_lines(["fewer than 3 seeds are done: the same command goes on"])


def _ahead(folder: Path, name: str) -> str:
    """The searched network's lead over seeds that both have, paired, with its interval."""
    ours, theirs = results(folder, SEARCHED), results(folder, name)
    leads = [ours[seed]["top1"] - theirs[seed]["top1"] for seed in ours.keys() & theirs.keys()]
    mean, half = mean_interval(leads)
    return "" if np.isnan(half) else f"{mean * 100:+.2f} ± {half * 100:.2f} points"


if __name__ == "__main__":
    main()
