"""``latbench calibrate``."""

from __future__ import annotations

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
)
from latbench.commands.output import emit, progress
from nas.commands.options import widths_option


@click.command(epilog=example("latbench calibrate t.sqlite --networks 24"))
@click.argument("table", type=FILE)
@click.option(
    "--networks", type=COUNT, default=24, show_default=True, help="Number of networks to add."
)
@seed_option
@widths_option("efficient")
@click.option(
    "--time-limit",
    type=DURATION,
    help="How long to measure, such as 2min.  [default: all visits of the device profile]",
)
@quiet_option
@json_option
def calibrate(
    table: Path, networks: int, seed: int, widths: str, time_limit: float | None, as_json: bool
) -> None:
    """Fit a table's prices to more networks.

    It measures random networks on the device of TABLE and fits the prices to them too. Predictions
    then have a 90 % interval. Repeat the command to resume after an interruption.
    """
    import nas
    from latbench.report.results import show_calibration

    with progress("calibrating") as shown:
        found = nas.calibrate(
            table,
            networks=networks,
            seed=seed,
            widths=widths,
            time_limit=time_limit,
            progress=shown,
        )
    emit(
        found.as_dict(),
        as_json=as_json,
        render=lambda: show_calibration(found.fit, before=found.before, path=table),
    )
