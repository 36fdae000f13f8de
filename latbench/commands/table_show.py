"""``latbench table show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import COUNT, FILE, json_option
from latbench.commands.output import emit

if TYPE_CHECKING:
    pass


@click.command("show")
@click.argument("path", type=FILE)
@click.option("--worst", type=COUNT, default=10, show_default=True, help="Entries to list.")
@click.option("--curves", type=COUNT, default=3, show_default=True, help="Width curves to draw.")
@click.option("--picture", type=FILE, help="Draw width curves into this file (png, svg, pdf).")
@json_option
def table_show(path: Path, worst: int, curves: int, picture: Path | None, as_json: bool) -> None:
    """What a table is of, its entries of widest interval, and latency over width."""
    from latbench.report.pictures import draw_curves, show_curves
    from latbench.report.results import show_table
    from latbench.report.terminal import print_lines
    from latbench.tables import LatencyTable
    from latbench.tables.export import describe, entries

    opened = LatencyTable.open(path)
    drawn = draw_curves(opened, picture) if picture is not None else 0

    def render() -> None:
        show_table(opened, worst=worst)
        show_curves(opened, count=curves)
        if picture is not None:
            print_lines(["", f"wrote {drawn} curves to {picture}"])

    emit(describe(opened) | {"entries": entries(opened)}, as_json=as_json, render=render)
