"""``latbench fit``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import (
    FILE,
    LATENCY,
    example,
    json_option,
    named,
    output_file,
    table_option,
)
from latbench.commands.output import emit, progress
from nas.commands.options import widths_option


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
@click.option(
    "--measured",
    is_flag=True,
    help="Measure the network, and correct its widths until its measured latency meets the target.",
)
@output_file("the fitted architecture", required=False)
@json_option
def fit(
    architecture: Path,
    table: Path,
    target: float,
    method: str,
    widths: str,
    measured: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Scale an architecture's widths to a latency.

    Operations and depths of ARCHITECTURE do not change. The predicted latency is at the target or
    just below it. If the target is not feasible, the error names the nearest feasible one.
    """
    import nas
    from nas.report.networks import show_fit

    with progress("measuring") as shown:
        fitted = nas.fit(
            architecture,
            table,
            target=target,
            method=method,
            widths=widths,
            measured=measured,
            progress=shown,
        )
    if output is not None:
        fitted.architecture.save(output)
    emit(fitted.as_dict(), as_json=as_json, render=lambda: show_fit(fitted, output))
