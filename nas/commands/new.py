"""``latbench new``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FOLDER, Named, json_option
from latbench.commands.output import emit
from nas.commands.options import component_kinds


@click.command()
@click.argument("kind", type=Named("kind", lambda: list(component_kinds())))
@click.argument("name")
@click.option("--root", type=FOLDER, help="A checkout; without, the one around this folder.")
@json_option
def new(kind: str, name: str, root: Path | None, as_json: bool) -> None:
    """Write a working component with its contract test, to be changed.

    KIND is space, block, searcher, strategy, criterion, dataset, task or runtime. In a checkout
    the component is registered beside the others; elsewhere it becomes a package of its own,
    latbench-NAME.
    """
    from latbench.report.terminal import print_lines
    from nas.scaffold import find_checkout, new_component, new_package

    here = Path.cwd()
    checkout = root if root is not None else find_checkout(here)
    if checkout is not None:
        made = new_component(kind, name, root=checkout.resolve())
    else:
        made = new_package(kind, name, parent=here)
    emit(
        {
            "kind": kind,
            "name": name,
            "root": str(made.root),
            "files": list(made.files),
            "next": made.next_step,
        },
        as_json=as_json,
        render=lambda: print_lines(
            [*(f"wrote {made.root / file}" for file in made.files), f"next: {made.next_step}"]
        ),
    )
