"""``latbench table export``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, example, json_option, named, output_file
from latbench.commands.output import emit


@click.command("export", epilog=example("latbench table export t.sqlite --format csv -o t.csv"))
@click.argument("table", type=FILE)
@click.option(
    "--format",
    "kind",
    type=named("format", "json", "csv", "parquet"),
    default="json",
    show_default=True,
    help="Format of the file.",
)
@output_file("the exported table")
@json_option
def table_export(table: Path, kind: str, output: Path, as_json: bool) -> None:
    """Write TABLE as JSON, CSV or Parquet."""
    import latbench
    from latbench.report.terminal import print_lines

    opened = latbench.LatencyTable.open(table)
    opened.export(output, kind)
    emit(
        {"path": str(output)},
        as_json=as_json,
        render=lambda: print_lines([f"wrote {opened.space} to {output}"]),
    )
