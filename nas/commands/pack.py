"""``latbench pack``."""

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
from nas.commands.options import folder_option


@click.command(epilog=example("latbench pack imagenet -o imagenet-packed"))
@click.argument("folder", type=FOLDER)
@folder_option("for train.lmdb and val.lmdb", required=True)
@quiet_option
@json_option
def pack(folder: Path, output: Path, as_json: bool) -> None:
    """Pack a folder of images into LMDB files.

    FOLDER has a layout of ImageNet: folders of images by class, or lists of files. The packed files
    are read faster. Repeat the command to resume after an interruption.
    """
    import nas
    from latbench.report.terminal import print_lines

    with progress("packing") as shown:
        packed = nas.pack(folder, output, progress=shown)
    words = f"packed {packed.train} and {packed.val} images into {output}"
    emit(packed.as_dict(), as_json=as_json, render=lambda: print_lines([words]))
