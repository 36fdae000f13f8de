"""``latbench generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from latbench.commands.options import (
    FILE,
    MILLIONS,
    example,
    json_option,
    quiet_option,
)
from latbench.commands.output import emit, progress
from nas.commands.options import ACTIVATION, folder_option, se_option, targets_option


@click.command(
    epilog=example(
        "latbench generate sgnas.generator --target-macs 320 --se --activation hswish",
        "latbench generate runs/sgnas/generator.safetensors --table t.sqlite --target 1.2ms",
    )
)
@click.argument("generator", type=FILE)
@click.option(
    "--table",
    type=FILE,
    metavar="TABLE",
    help="Latency table of the device, written by `latbench profile`.",
)
@targets_option("The option can be repeated.")
@click.option(
    "--target-macs",
    "macs",
    type=MILLIONS,
    multiple=True,
    help="Largest number of multiply-accumulates of convolutions, in millions, such as 320. A "
    "number of 100000 or more is not in millions: 320000000 means the same.",
)
@click.option(
    "--target-params",
    "params",
    type=MILLIONS,
    multiple=True,
    help="Largest number of parameters, in millions, such as 3.2. A number of 100000 or more is "
    "not in millions.",
)
@click.option(
    "--raw",
    is_flag=True,
    help="Print raw generator output, without the repair that enforces the budget.",
)
@se_option()
@click.option(
    "--activation",
    type=ACTIVATION,
    help="Activation of every block.  [default: the generator's own]",
)
@folder_option("for the architectures, one file each")
@quiet_option
@json_option
def generate(
    generator: Path,
    table: Path | None,
    targets: tuple[float, ...],
    macs: tuple[float, ...],
    params: tuple[float, ...],
    raw: bool,
    se: bool,
    activation: Literal["relu6", "hswish"] | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Generate architectures for budgets.

    One forward pass of GENERATOR answers all budgets, and every architecture meets its budget.
    Budgets of two kinds are paired: the first of one with the first of the other.
    """
    import nas
    from nas.report.searches import show_generated

    with progress("generating"):
        found = nas.generate(
            generator,
            table=table,
            targets=targets,
            target_macs=macs,
            target_params=params,
            raw=raw,
            se=se,
            activation=activation,
        )
    if output is not None:
        found.save(output)
    emit(found.as_dict(), as_json=as_json, render=lambda: show_generated(found, output))
