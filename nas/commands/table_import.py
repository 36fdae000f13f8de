"""``latbench table import``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from latbench.commands.options import FILE, example, json_option, named, output_file
from latbench.commands.output import emit
from nas.commands.options import FORMAT


@click.command(
    "import",
    epilog=example(
        "latbench table import latency_gpu.pkl --format tfnas --device 'Titan RTX' -o titan.sqlite"
    ),
)
@click.argument("file", type=FILE)
@click.option(
    "--format",
    "kind",
    type=FORMAT,
    required=True,
    help="Format of FILE: tfnas, ofa, osnaslib or hardcore.",
)
@click.option(
    "--unit",
    type=named("unit", "ms", "s"),
    help="Unit of the latencies in FILE.  [default: the format's own]",
)
@click.option("--device", required=True, metavar="NAME", help="Name of the device; any text.")
@output_file("the latency table, which must not exist yet")
@json_option
def table_import(
    file: Path, kind: str, unit: Literal["ms", "s"] | None, device: str, output: Path, as_json: bool
) -> None:
    """Convert another program's latency table.

    Defects of FILE are counted, not hidden: prices that are not positive or not a number, duplicate
    entries, and unknown blocks. Pickles are read without running their code.
    """
    import latbench
    import nas
    from latbench.report.results import show_import

    table = nas.import_table(file, output, file_format=kind, device=device, unit=unit)
    found = latbench.check_table(table)
    emit(found.as_dict(), as_json=as_json, render=lambda: show_import(found, table))
