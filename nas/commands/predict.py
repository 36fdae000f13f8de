"""``latbench predict``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, example, json_option, table_option
from latbench.commands.output import emit
from nas.commands.options import shape_option


@click.command(
    epilog=example(
        "latbench predict arch.json --table t.sqlite",
        "latbench predict model.onnx --table t.sqlite",
    )
)
@click.argument("network", type=FILE)
@table_option
@shape_option
@json_option
def predict(
    network: Path, table: Path, shapes: tuple[tuple[str, tuple[int, ...]], ...], as_json: bool
) -> None:
    """Predict a network's latency from a table.

    NETWORK is the file of an architecture or an ONNX file. Nothing is measured. The latency has a
    90 % interval if the table was calibrated.
    """
    import latbench
    import nas
    from nas.report.networks import show_prediction

    opened = latbench.LatencyTable.open(table)
    found = nas.predict(network, opened, shapes=dict(shapes))
    emit(found.as_dict(), as_json=as_json, render=lambda: show_prediction(found, opened.device))
