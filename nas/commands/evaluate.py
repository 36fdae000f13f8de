"""``latbench evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import (
    FOLDER,
    example,
    json_option,
    quiet_option,
)
from latbench.commands.output import emit, progress
from nas.commands.options import data_options, torch_device_option


@click.command(epilog=example("latbench evaluate runs/a --data digits"))
@click.argument("run", type=FOLDER)
@data_options
@torch_device_option
@quiet_option
@json_option
def evaluate(run: Path, data: str, data_dir: Path | None, torch_device: str, as_json: bool) -> None:
    """Test a trained network.

    RUN is the folder of `latbench train`. The result is the accuracy, or the metrics of another
    task.
    """
    import nas
    from nas.report.metrics import show_test

    with progress("testing") as shown:
        tested = nas.evaluate(
            run, data, data_dir=data_dir, torch_device=torch_device, progress=shown
        )
    emit(tested.as_dict(), as_json=as_json, render=lambda: show_test(tested))
