"""``latbench fit``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from latbench.commands.options import (
    FILE,
    LATENCY,
    example,
    json_option,
    named,
    output_file,
    quiet_option,
    table_option,
)
from latbench.commands.output import EXIT_FAILED_CHECK, after_result, emit, progress
from nas.commands.options import confidence_option, until_verified_option, widths_option


@click.command(
    epilog=example("latbench fit arch.json --table t.sqlite --target 7ms -o arch-7ms.json")
)
@click.argument("architecture", type=FILE)
@table_option
@click.option(
    "--target", type=LATENCY, required=True, help="Latency not to exceed, such as 15ms or 0.8s."
)
@click.option(
    "--method",
    type=named("method", "exact", "greedy"),
    default="exact",
    show_default=True,
    help="Find the closest latency (exact), or scale as in the paper of TF-NAS (greedy).",
)
@widths_option("any")
@confidence_option
@until_verified_option("Measure networks on the device and correct their widths")
@output_file("the fitted architecture", required=False)
@quiet_option
@json_option
def fit(
    architecture: Path,
    table: Path,
    target: float,
    method: str,
    widths: str,
    confidence: float | None,
    until_verified: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Scale an architecture's widths to a latency.

    Operations and depths of ARCHITECTURE do not change. The predicted latency is at the target or
    just below it. If the target is not feasible, the error names the nearest feasible one.
    """
    import nas
    from nas.report.networks import show_architecture, show_fit

    with progress("measuring") as shown:
        fitted = nas.fit(
            architecture,
            table,
            target=target,
            method=method,
            widths=widths,
            confidence=confidence,
            until_verified=until_verified,
            progress=shown,
        )
    emit(fitted.as_dict(), as_json=as_json, render=lambda: show_fit(fitted))
    if output is not None:
        with after_result():  # a file that cannot be written loses no measurement
            fitted.architecture.save(output)
    if not as_json:
        show_architecture(fitted.architecture, output)
    if fitted.status not in (None, "met"):
        sys.exit(EXIT_FAILED_CHECK)
