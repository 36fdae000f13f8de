"""``latbench verify``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from latbench.commands.options import (
    COUNT,
    DURATION,
    FILE,
    example,
    json_option,
    quiet_option,
    seed_option,
    table_option,
    tolerance_option,
)
from latbench.commands.output import EXIT_FAILED_CHECK, emit, progress
from nas.commands.options import shape_option, widths_option


@click.command(
    epilog=example(
        "latbench verify --random 24 --seed 7 --table t.sqlite",
        "latbench verify arch.json --table t.sqlite",
        "latbench verify model.onnx --table t.sqlite",
    )
)
@click.argument("networks", nargs=-1, type=FILE)
@click.option(
    "--random",
    type=COUNT,
    metavar="N",
    default=None,
    help="Number of random networks to verify as well; for a model, of chains of its segments.",
)
@seed_option
@widths_option("efficient")
@tolerance_option("Mean error that is allowed")
@click.option(
    "--time-limit",
    type=DURATION,
    help="How long to measure, such as 2min.  [default: all visits of the device profile]",
)
@table_option
@shape_option
@quiet_option
@json_option
def verify(
    networks: tuple[Path, ...],
    random: int | None,
    seed: int,
    widths: str,
    tolerance: float,
    time_limit: float | None,
    table: Path,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    as_json: bool,
) -> None:
    """Measure networks and compare with a table.

    NETWORKS are architectures of the table's space, or ONNX files. The result separates the
    machine's drift since the profiling from the table's error. The exit code is 1 if the mean error
    exceeds the tolerance.
    """
    import nas
    from latbench.report.results import show_verification

    with progress("verifying") as shown:
        found = nas.verify(
            networks,
            table,
            random=random or 0,
            seed=seed,
            widths=widths,
            tolerance=tolerance,
            shapes=dict(shapes),
            time_limit=time_limit,
            progress=shown,
        )
    emit(
        found.as_dict(),
        as_json=as_json,
        render=lambda: show_verification(
            found.names, found, tolerance=tolerance, passed=found.passed
        ),
    )
    if not found.passed:
        sys.exit(EXIT_FAILED_CHECK)
