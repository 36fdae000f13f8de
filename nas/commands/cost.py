"""``latbench cost``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, example, json_option
from latbench.commands.output import emit


@click.command(epilog=example("latbench cost arch.json"))
@click.argument("architecture", type=FILE)
@json_option
def cost(architecture: Path, as_json: bool) -> None:
    """Count multiply-accumulates and parameters.

    The counts are of ARCHITECTURE, a JSON file, in millions. Multiply-accumulates are those of
    convolutions and linear layers, nothing else.
    """
    import nas
    from nas.report.networks import show_cost

    found = nas.cost(architecture)
    emit(found.in_millions(), as_json=as_json, render=lambda: show_cost(found))
