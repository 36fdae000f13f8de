"""``latbench table show``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import COUNT, FILE, example, json_option, written_file
from latbench.commands.output import emit

_SHOWN = 3  # curves in the terminal


@click.command("show", epilog=example("latbench table show t.sqlite --picture curves.png"))
@click.argument("table", type=FILE)
@click.option(
    "--worst",
    type=COUNT,
    default=10,
    show_default=True,
    help="Number of entries to list; those with the widest intervals come first.",
)
@click.option(
    "--curves",
    type=COUNT,
    help="Number of width curves to draw.  [default: 3, and 12 in a picture]",
)
@written_file(
    "--picture",
    help="Also draw the width curves into this file, which ends in .png, .svg or .pdf.",
)
@json_option
def table_show(
    table: Path, worst: int, curves: int | None, picture: Path | None, as_json: bool
) -> None:
    """Show what TABLE holds, worst entries first.

    The device, the space, the entries of widest interval, and latency over width.

    `--json` prints all measured entries with the device, the machine and the price model.
    """
    import latbench
    from latbench.report.curves import show_curves
    from latbench.report.pictures import PICTURED, draw_curves
    from latbench.report.results import show_table
    from latbench.report.terminal import print_lines

    opened = latbench.LatencyTable.open(table)
    drawn = draw_curves(opened, picture, count=curves or PICTURED) if picture is not None else 0

    def render() -> None:
        show_table(opened, worst=worst)
        show_curves(opened, count=curves or _SHOWN)
        if picture is not None:
            print_lines(["", f"wrote {drawn} curves to {picture}"])

    emit(opened.as_dict(), as_json=as_json, render=render)
