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
    """Count multiply-accumulates, parameters and memory.

    The counts for ARCHITECTURE, a JSON file, are in millions. Multiply-accumulates are counted for
    convolutions and linear layers only. The memory is that of the activations of one image in fp32
    that are needed at once.
    """
    import nas
    from nas.report.networks import show_cost

    found = nas.cost(architecture)
    emit(found.in_millions(), as_json=as_json, render=lambda: show_cost(found))
