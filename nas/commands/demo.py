"""``latbench demo``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FOLDER, example, json_option
from latbench.commands.output import emit, progress


@click.command(epilog=example("latbench demo -o runs/demo"))
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    default="runs/demo",
    show_default=True,
    metavar="FOLDER",
    help="Folder for everything that is made.",
)
@json_option
def demo(output: Path, as_json: bool) -> None:
    """Profile, search, train and verify, in minutes.

    The main job on this machine at small size: a rough latency table, a network for a budget, its
    training on scikit-learn's digits, and its measured latency. The same command goes on where it
    was interrupted.
    """
    import nas
    from nas.report.searches import show_demo

    result = nas.run_demo(output, progress)
    emit(result.as_dict(), as_json=as_json, render=lambda: show_demo(result, output))
