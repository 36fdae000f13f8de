"""``latbench new``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FOLDER, example, json_option
from latbench.commands.output import emit
from nas.commands.options import KIND


@click.command(epilog=example("latbench new space my-space"))
@click.argument("kind", type=KIND)
@click.argument("name")
@click.option(
    "--root",
    type=FOLDER,
    metavar="FOLDER",
    help="Checkout of latbench to write into.  [default: the one around this folder]",
)
@json_option
def new(kind: str, name: str, root: Path | None, as_json: bool) -> None:
    """Write a new component with its contract test.

    KIND is space, block, searcher, strategy, criterion, dataset, task or runtime. The new component
    is a working example to edit. In a checkout it is registered with the others; elsewhere it
    becomes a separate package, latbench-NAME.
    """
    import nas
    from latbench.report.terminal import print_lines

    made = nas.create(kind, name, root=root)
    lines = [*(f"wrote {made.root / file}" for file in made.files), f"next: {made.next_step}"]
    emit(made.as_dict(), as_json=as_json, render=lambda: print_lines(lines))
