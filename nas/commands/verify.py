"""``latbench verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import COUNT, FILE, SEED, json_option, table_option
from latbench.commands.output import EXIT_FAILED_CHECK, emit
from latbench.errors import InvalidValueError
from nas.commands.options import widths_option
from nas.commands.shared import open_table, priced_space

if TYPE_CHECKING:
    pass


@click.command()
@click.argument("architectures", nargs=-1, type=FILE)
@click.option("--random", "random_count", type=COUNT, help="Verify this many random networks.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@widths_option("efficient")
@click.option("--tolerance", type=click.FloatRange(min=0), default=0.05, show_default=True)
@table_option
@json_option
def verify(
    architectures: tuple[Path, ...],
    random_count: int | None,
    seed: int,
    widths: str,
    tolerance: float,
    table_path: Path,
    as_json: bool,
) -> None:
    """Measure whole networks against a table; exit code 1 if the mean error is too large."""
    import numpy as np

    from latbench.profilers import make_profiler
    from latbench.report.results import show_verification
    from latbench.report.terminal import progress_bar
    from latbench.workflows.verification import verify as run_verify
    from nas.latency.priced_space import PricedSpace
    from nas.spaces import load_architecture

    if not architectures and random_count is None:
        raise InvalidValueError("nothing to verify: name architectures, or give --random N")
    opened = open_table(table_path)
    priced = priced_space(opened, widths)
    named = []
    for path in architectures:
        arch, space = load_architecture(path)
        PricedSpace(space, opened)
        named.append((path.name, arch))
    rng = np.random.default_rng(seed)
    for index in range(random_count or 0):
        named.append((f"random {index + 1}", priced.space.random(rng, priced.widths)))
    profiler = make_profiler(opened.device)
    with progress_bar("verifying") as progress:
        result = run_verify(
            profiler,
            opened,
            [priced.space.lower(arch) for _, arch in named],
            progress=progress,
        )
    passed = result.mape <= tolerance
    rows = [
        {
            "architecture": arch.as_dict(),
            "predicted_ms": row.predicted.latency_ms,
            "low_ms": row.predicted.low_ms,
            "high_ms": row.predicted.high_ms,
            "measured_ms": row.measured.estimate_ms,
            "measured_low_ms": row.measured.low_ms,
            "measured_high_ms": row.measured.high_ms,
            "error": row.error,
            "error_drift_corrected": row.error_drift_corrected,
        }
        for (_, arch), row in zip(named, result.networks, strict=True)
    ]
    summary = {
        "mape": result.mape,
        "bias": result.bias,
        "max_error": result.max_error,
        "kendall_tau": result.kendall_tau,
        "drift": result.drift,
        "mape_drift_corrected": result.mape_drift_corrected,
        "max_error_drift_corrected": result.max_error_drift_corrected,
        "coverage": result.coverage,
        "interval_width": result.interval_width,
        "spread": result.spread,
        "floor": result.floor,
        "passed": passed,
    }

    emit(
        {"rows": rows, **summary},
        as_json=as_json,
        render=lambda: show_verification([name for name, _ in named], result, tolerance=tolerance),
    )
    if not passed:
        sys.exit(EXIT_FAILED_CHECK)
