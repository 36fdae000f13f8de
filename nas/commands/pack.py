"""``latbench pack``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FOLDER, json_option
from latbench.commands.output import emit
from nas.commands.options import needs_torch


@click.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "-o", "--output", type=FOLDER, required=True, help="Where train.lmdb and val.lmdb go."
)
@json_option
def pack(folder: Path, output: Path, as_json: bool) -> None:
    """Pack the images of FOLDER, in a layout of ImageNet, into two LMDB files."""
    from latbench.report.terminal import print_lines, progress_bar

    with needs_torch():
        from nas.data.imagenet import pack_imagenet
    with progress_bar("packing") as progress:
        counts = pack_imagenet(folder, output, progress=progress)
    words = f"packed {counts['train']} and {counts['val']} images into {output}"
    emit(counts, as_json=as_json, render=lambda: print_lines([words]))
