"""``latbench demo``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import example, json_option
from latbench.commands.output import emit, progress
from nas.commands.options import folder_option


@click.command(epilog=example("latbench demo -o runs/demo"))
@folder_option("for all results", default="runs/demo")
@json_option
def demo(output: Path, as_json: bool) -> None:
    """Profile, search, train and verify, in minutes.

    The demo runs the main job on this machine at small size. It makes a rough latency table,
    searches a network for a budget, trains it on scikit-learn's digits, and measures its latency.
    Repeat the command to resume after an interruption.
    """
    import nas
    from nas.report.searches import show_demo

    result = nas.run_demo(output, progress)
    emit(result.as_dict(), as_json=as_json, render=lambda: show_demo(result, output))
