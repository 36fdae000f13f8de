"""``latbench cost``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, json_option
from latbench.commands.output import emit


@click.command()
@click.argument("architecture", type=FILE)
@json_option
def cost(architecture: Path, as_json: bool) -> None:
    """Multiply-accumulates and parameters of ARCHITECTURE, in millions."""
    from latbench.cost import network_cost
    from latbench.report.terminal import print_lines
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    result = network_cost(space.lower(arch)).in_millions()
    emit(
        result,
        as_json=as_json,
        render=lambda: print_lines(
            [
                f"{result['macs_m']:.3f} M MACs ({result['conv_macs_m']:.3f} M in convolutions), "
                f"{result['params_m']:.3f} M parameters"
            ]
        ),
    )
