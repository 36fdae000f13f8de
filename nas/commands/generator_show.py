"""``latbench generator show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import FILE, json_option
from latbench.commands.output import emit
from nas.commands.options import needs_torch

if TYPE_CHECKING:
    from nas.generator import Generator


@click.command("show")
@click.argument("path", metavar="GENERATOR", type=FILE)
@json_option
def generator_show(path: Path, as_json: bool) -> None:
    """What a generator may be asked: space, kinds of budget, devices, trained range."""
    with needs_torch():
        from nas.generator import load_generator

    emit_generator(load_generator(path), path, as_json=as_json)


def emit_generator(made: Generator, path: Path, *, as_json: bool) -> None:
    """Print what a generator may be asked."""
    import msgspec

    from latbench.report.terminal import print_lines

    label = made.label
    unit = " M conv MACs" if label.form == "published" else " of the reach"
    lines = [
        f"{path}: a {label.form} generator of {label.space}; it chooses {label.plane}",
        f"budgets: {', '.join(label.kinds)}; trained on {label.low:g} to {label.high:g}{unit}",
        *(f"device: {device}" for device in label.devices),
    ]
    emit(msgspec.to_builtins(label), as_json=as_json, render=lambda: print_lines(lines))
