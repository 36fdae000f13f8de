"""Verified budgets, verified again: searches until their budgets are met, measured minutes later.

    python benchmarks/verified.py -o RUN --hours 1 --table ORT.sqlite --table OPENVINO.sqlite
        [--budgets 3 2] [--wait 10min] [--data fashion-mnist] [--images 2000] [--epochs 6]
        [--loaded]

The tables are of TF-NAS's space. The budgets are quantiles of the latencies of random networks, so
many for each table in turn. A search with --until-verified finds a network for each budget. At the
given time after it, a new process measures the networks once more, all in one sweep. The noise of
the device is checked before the search and before the verification. With --loaded a further search
for the first budget of each table meets a load that starts in its first sweep, and is verified
after the load has ended. The same command goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from time import sleep, time
from typing import Any

import numpy as np
from cells import (
    Clock,
    Progress,
    Stopwatch,
    chosen,
    heading,
    latency_table,
    parser,
    results,
    run_cells,
)
from load import load

import latbench
import nas
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from latbench.units import as_duration_s, format_ms
from latbench.workflows.network_errors import verify_apart
from nas.latency.priced_space import labelled_space
from nas.workflows.inputs import priced_by
from nas.workflows.search import latencies_digest

QUANTILES = (0.1, 0.5)  # of random networks' latencies: the lowest and the highest budget
DRAWN = 200
CHECK_S = 20.0
_COLUMNS = ("device", "budget", "verdict", "rounds", "measured", "at most", "again", "noise")
LOAD_FROM = "selection, pass 10"  # progress at which the load starts


def main() -> None:
    """Search and verify what is missing, and print all that is there."""
    arguments = parser(__doc__, one_target=False)
    arguments.add_argument(
        "--table", dest="tables", type=latency_table, action="append", required=True
    )
    arguments.add_argument("--budgets", type=int, nargs="+", default=[3, 2])
    arguments.add_argument("--wait", default="10min")
    arguments.add_argument("--data", default="fashion-mnist")
    arguments.add_argument("--images", type=int, default=2000)
    arguments.add_argument("--epochs", type=int, default=6)
    arguments.add_argument("--loaded", action="store_true")
    asked = arguments.parse_args()
    counts = [n for n, _ in zip_longest(asked.budgets, asked.tables, fillvalue=asked.budgets[-1])]
    clock = Clock(asked.hours)
    kinds = ["search", *(["loaded"] if asked.loaded else [])]

    def work(name: str, seed: int, run: Path, progress: Progress) -> dict[str, Any]:
        kind, again = name.removesuffix("-again"), name.endswith("-again")
        path = asked.tables[seed]
        if again:
            found = results(asked.output, kind)[seed]
            _wait_until(found["finished_s"] + as_duration_s(asked.wait), clock)
            return _measured_again(path, found["results"], progress)
        budgets_ms = _budgets_ms(path, counts[seed])
        return _searched(path, budgets_ms, run, kind == "loaded", asked, progress)

    cells = [
        (name, seed)
        for kind in kinds
        for name in (kind, f"{kind}-again")
        for seed in range(len(asked.tables))
    ]
    tables = [LatencyTable.open(path) for path in asked.tables]
    settings = chosen(asked, "budgets", "data", "images", "epochs")
    settings["latencies"] = [latencies_digest(table) for table in tables]
    run_cells(asked.output, cells, work, clock, settings=settings)
    versions: dict[str, str] = {}
    for table in tables:
        versions |= make_profiler(table.device).versions()
    print_lines(heading(versions))
    for kind in kinds:
        _show(kind, asked.output, tables)


def _budgets_ms(path: Path, count: int) -> list[float]:
    table = LatencyTable.open(path)
    priced = priced_by(table, "efficient")
    rng = np.random.default_rng(0)
    latencies = [priced.latency_ms(priced.space.random(rng, priced.widths)) for _ in range(DRAWN)]
    return [float(f"{q:.3g}") for q in np.quantile(latencies, np.linspace(*QUANTILES, count))]


def _searched(
    path: Path,
    budgets_ms: Sequence[float],
    run: Path,
    loaded: bool,
    asked: Any,
    progress: Progress,
) -> dict[str, Any]:
    """Results of a search for all budgets, or for the first one with a load that starts in it."""
    table = LatencyTable.open(path)
    tolerance = latbench.check_device(table.device, duration=CHECK_S).tolerance
    with Stopwatch(run.with_name(f"{run.name}-seconds.json")) as watch, load() as start:

        def report(done: float, words: str) -> None:
            progress(done, words)
            if loaded and LOAD_FROM in words:
                start()

        found = nas.search(
            table.space.name,
            [table],
            data=asked.data,
            output=run,
            targets=budgets_ms[:1] if loaded else budgets_ms,
            images=asked.images,
            epochs=asked.epochs,
            until_verified=True,
            progress=report,
        )
    return {
        "tolerance": tolerance,
        "seconds": watch.total_s,
        "finished_s": time(),
        "results": [
            result.as_dict() | {"file": str(file)}
            for result, file in zip(found, found.files, strict=True)
        ],
    }


def _wait_until(then_s: float, clock: Clock) -> None:
    """Wait, or raise ``TimeIsUp``."""
    while time() < then_s:
        clock.check()
        sleep(min(1.0, max(0.0, then_s - time())))


def _measured_again(
    path: Path, found: Sequence[dict[str, Any]], progress: Progress
) -> dict[str, Any]:
    """Fresh latencies of the networks of a search, measured in a new process."""
    table = LatencyTable.open(path)
    tolerance = latbench.check_device(table.device, duration=CHECK_S).tolerance
    space = labelled_space(table.space)
    made = [nas.load_architecture(each["file"]) for each in found]
    verified = verify_apart(path, [space.lower(each) for each in made], progress=progress)
    intervals = [row.measured for row in verified.networks]
    return {
        "tolerance": tolerance,
        "measured_s": time(),
        "results": [
            {"measured_ms": i.estimate_ms, "low_ms": i.low_ms, "high_ms": i.high_ms}
            for i in intervals
        ],
    }


def _show(kind: str, folder: Path, tables: Sequence[LatencyTable]) -> None:
    """Print every budget with its verdict and, if it is there, the later measurement.

    Latencies are relative to their budgets.
    """
    searched, again = results(folder, kind), results(folder, f"{kind}-again")
    rows, below, near, met = [], 0, 0, 0
    for seed, cell in searched.items():
        later = again.get(seed)
        for number, result in enumerate(cell["results"]):
            target_ms = result["target_ms"]
            met += result["status"] == "met"
            row = [
                tables[seed].device.name,
                format_ms(target_ms),
                result["status"],
                str(result["rounds"]),
                f"{result['measured_ms'] / target_ms - 1:+.1%}",
                f"{result['measured_high_ms'] / target_ms - 1:+.1%}",
            ]
            if later is not None:
                fresh_ms = later["results"][number]["measured_ms"]
                below += fresh_ms <= target_ms
                near += abs(fresh_ms / target_ms - 1) <= 0.02
                minutes = (later["measured_s"] - cell["finished_s"]) / 60
                row += [f"{fresh_ms / target_ms - 1:+.1%}, {minutes:.0f} min"]
                row += [f"{cell['tolerance']:.1%}, {later['tolerance']:.1%}"]
            rows.append((*row, *[""] * (len(_COLUMNS) - len(row))))
    if not rows:
        return
    print_table(_COLUMNS, rows)
    seconds = sum(cell["seconds"] for cell in searched.values())
    print_lines(
        [
            f"{kind}: {met} of {len(rows)} met in {seconds / 60:.0f} min; measured again, {below} "
            f"at or below their budgets, {near} within 2 %"
        ]
    )


if __name__ == "__main__":
    main()
