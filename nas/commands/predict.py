"""``latbench predict``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, example, json_option, table_option
from latbench.commands.output import emit


@click.command(epilog=example("latbench predict arch.json --table t.sqlite"))
@click.argument("architecture", type=FILE)
@table_option
@json_option
def predict(architecture: Path, table: Path, as_json: bool) -> None:
    """Predict an architecture's latency from a table.

    Nothing is measured. The latency of ARCHITECTURE has a 90 % interval if the table was
    calibrated.
    """
    import latbench
    import nas
    from nas.report.networks import show_prediction

    opened = latbench.LatencyTable.open(table)
    found = nas.predict(architecture, opened)
    emit(found.as_dict(), as_json=as_json, render=lambda: show_prediction(found, opened.device))
