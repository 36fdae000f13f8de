"""``latbench table export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import FILE, json_option, named
from latbench.commands.output import emit

if TYPE_CHECKING:
    pass


@click.command("export")
@click.argument("path", type=FILE)
@click.option("--format", "kind", type=named("format", "json", "csv", "parquet"), default="json")
@click.option("-o", "--output", type=FILE, required=True)
@json_option
def table_export(path: Path, kind: str, output: Path, as_json: bool) -> None:
    """Write a table as JSON, CSV or Parquet."""
    from latbench.files import write_atomically
    from latbench.report.terminal import print_lines
    from latbench.tables import LatencyTable
    from latbench.tables.export import FORMATS

    opened = LatencyTable.open(path)
    write_atomically(output, FORMATS[kind](opened))
    emit(
        {"path": str(output)},
        as_json=as_json,
        render=lambda: print_lines([f"wrote {opened.space} to {output}"]),
    )
