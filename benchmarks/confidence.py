"""How many networks exceed their targets, if each target is to be kept with a confidence.

    python benchmarks/confidence.py -o RUN --hours 1 --table T32.sqlite --table T224.sqlite
        [--fits 20] [--confidence 0.95] [--at-once 5]

The tables are calibrated ones of a space with elastic widths. Random architectures are fitted to
random targets, so many for each table, with the confidence. The fitted networks are measured fresh,
some at once in one sweep. The same command goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import Clock, Progress, chosen, heading, latency_table, parser, results, run_cells, shown

import nas
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from latbench.tables.chance import upper_margin
from latbench.workflows.network_errors import verify_apart
from nas.latency.width_scaling import width_range_ms
from nas.workflows.inputs import priced_by

INSIDE = (0.1, 0.9)  # part of an architecture's range of latencies from which targets are drawn


def main() -> None:
    """Fit and measure what is missing, and print all that is there."""
    arguments = parser(__doc__, one_target=False)
    arguments.add_argument(
        "--table", dest="tables", type=latency_table, action="append", required=True
    )
    arguments.add_argument("--fits", type=int, default=20)
    arguments.add_argument("--confidence", type=float, default=0.95)
    arguments.add_argument("--at-once", type=int, default=5)
    asked = arguments.parse_args()
    names = [path.stem for path in asked.tables]
    by_name = dict(zip(names, asked.tables, strict=True))
    if len(by_name) < len(names):
        arguments.error("two tables have one name: give them different ones")
    parts = range(-(-asked.fits // asked.at_once))

    def work(name: str, seed: int, run: Path, progress: Progress) -> dict[str, Any]:
        count = min(asked.at_once, asked.fits - seed * asked.at_once)
        return _fitted(by_name[name], seed, count, asked.confidence, progress)

    cells = [(name, seed) for name in names for seed in parts]
    settings = chosen(asked, "fits", "confidence", "at_once")
    run_cells(asked.output, cells, work, Clock(asked.hours), settings=settings)
    versions: dict[str, str] = {}
    for path in asked.tables:
        versions |= make_profiler(LatencyTable.open(path).device).versions()
    print_lines(heading(versions))
    rows = []
    for name, path in by_name.items():
        margin = upper_margin(LatencyTable.open(path), asked.confidence)
        found = [fit for part in results(asked.output, name).values() for fit in part["fits"]]
        rows.append(_row(name, margin, found))
    columns = (
        "table",
        "margin",
        "fits",
        "exceed",
        "largest excess",
        "unused",
        "left, measured",
    )
    print_table(columns, rows)


def _fitted(
    path: Path, seed: int, count: int, confidence: float, progress: Progress
) -> dict[str, Any]:
    """Fits of random architectures to random targets, measured in one sweep."""
    table = LatencyTable.open(path)
    priced = priced_by(table, "efficient")
    margin = upper_margin(table, confidence)
    rng = np.random.default_rng([seed, 7])
    fits = []
    for _ in range(count):
        drawn = priced.space.random(rng, priced.widths)
        low_ms, high_ms = width_range_ms(priced, priced.space.chosen_layers(drawn))
        share = rng.uniform(*INSIDE)
        target_ms = (1 + margin) * (low_ms + share * (high_ms - low_ms))
        fits.append(
            nas.fit(drawn, table, target=target_ms, widths="efficient", confidence=confidence)
        )
    networks = [priced.space.lower(fit.architecture) for fit in fits]
    verified = verify_apart(path, networks, progress=progress)
    return {
        "drift": verified.drift,
        "fits": [
            fit.as_dict() | {"fresh_ms": row.measured.estimate_ms}
            for fit, row in zip(fits, verified.networks, strict=True)
        ],
    }


def _row(name: str, margin: float, found: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    excess = [fit["fresh_ms"] / fit["target_ms"] - 1 for fit in found]
    return (
        name,
        f"{margin:.1%}",
        str(len(found)),
        str(sum(each > 0 for each in excess)),
        f"{max(excess):+.1%}" if excess else "",
        shown([fit["unused"] for fit in found]),
        shown([-each for each in excess]),
    )


if __name__ == "__main__":
    main()
