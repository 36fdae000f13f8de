"""``latbench generator show``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, example, json_option
from latbench.commands.output import emit


@click.command("show", epilog=example("latbench generator show sgnas.generator"))
@click.argument("generator", type=FILE)
@json_option
def generator_show(generator: Path, as_json: bool) -> None:
    """Show what a generator can generate.

    The output lists the space of its architectures, the kinds of budgets, the devices and the
    trained range.
    """
    import nas
    from nas.report.searches import show_generator

    loaded = nas.load_generator(generator)
    emit(
        nas.describe_generator(loaded),
        as_json=as_json,
        render=lambda: show_generator(loaded, generator),
    )
