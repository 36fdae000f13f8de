"""``latbench generator import``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, json_option
from nas.commands.generator_show import emit_generator
from nas.commands.options import needs_torch


@click.command("import")
@click.option("--weights", type=FILE, required=True, help="Published weights, .npz or .pth.")
@click.option("--prior", type=FILE, required=True, help="Published prior pool, JSON.")
@click.option("-o", "--output", type=FILE, required=True)
@json_option
def generator_import(weights: Path, prior: Path, output: Path, as_json: bool) -> None:
    """Make the published weights of an SGNAS generator usable."""
    with needs_torch():
        from nas.generator import import_generator, save_generator

    made = import_generator(weights, prior)
    save_generator(made, output)
    emit_generator(made, output, as_json=as_json)
