"""``latbench generator import``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, example, json_option, output_file
from latbench.commands.output import emit


@click.command(
    "import",
    epilog=example(
        "latbench generator import --weights g.npz --prior prior_pool.json -o sgnas.generator"
    ),
)
@click.option(
    "--weights",
    type=FILE,
    required=True,
    metavar="FILE",
    help="Published weights of a generator, .npz or .pth.",
)
@click.option(
    "--prior", type=FILE, required=True, metavar="FILE", help="Published prior pool, JSON."
)
@output_file("the generator")
@json_option
def generator_import(weights: Path, prior: Path, output: Path, as_json: bool) -> None:
    """Import published weights of SGNAS."""
    import nas
    from nas.report.searches import show_generator

    made = nas.import_generator(weights, prior)
    nas.save_generator(made, output)
    emit(
        nas.describe_generator(made),
        as_json=as_json,
        render=lambda: show_generator(made, output),
    )
