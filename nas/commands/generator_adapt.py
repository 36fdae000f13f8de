"""``latbench generator adapt``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import (
    COUNT,
    FOLDER,
    example,
    json_option,
    output_file,
    quiet_option,
    table_option,
)
from latbench.commands.output import emit, progress
from nas.commands.options import torch_device_option


@click.command(
    "adapt",
    epilog=example("latbench generator adapt runs/sgnas --table new.sqlite -o new.generator"),
)
@click.argument("run", type=FOLDER)
@table_option
@click.option(
    "--data-dir",
    type=FOLDER,
    metavar="FOLDER",
    help="Folder of the data set's files, if the search needed one.",
)
@click.option(
    "--epochs",
    type=COUNT,
    default=5,
    show_default=True,
    help="Number of training epochs for the new device.",
)
@torch_device_option
@output_file("the adapted generator")
@quiet_option
@json_option
def generator_adapt(
    run: Path,
    table: Path,
    data_dir: Path | None,
    epochs: int,
    torch_device: str,
    output: Path,
    as_json: bool,
) -> None:
    """Train a generator for one more device.

    RUN is the folder of a search by sgnas. The table belongs to the new device. Only the vector of
    this device is trained, with RUN's supernet; the rest of the generator does not change.
    """
    import nas
    from nas.report.searches import show_generator

    with progress("adapting") as shown:
        made = nas.adapt_generator(
            run,
            table,
            epochs=epochs,
            data_dir=data_dir,
            torch_device=torch_device,
            progress=shown,
        )
        nas.save_generator(made, output)
    emit(
        nas.describe_generator(made),
        as_json=as_json,
        render=lambda: show_generator(made, output),
    )
