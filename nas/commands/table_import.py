"""``latbench table import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from latbench.commands.options import FILE, json_option, named
from latbench.commands.output import emit
from latbench.files import utf8

if TYPE_CHECKING:
    pass


@click.command("import")
@click.argument("file", type=FILE)
@click.option("--format", "kind", required=True, help="tfnas, ofa, osnaslib or hardcore.")
@click.option("--unit", type=named("unit", "ms", "s"), help="Of the file; else its format's own.")
@click.option("--device", required=True, help="What to call the device, freely.")
@click.option("-o", "--output", type=FILE, required=True)
@json_option
def table_import(
    file: Path, kind: str, unit: Literal["ms", "s"] | None, device: str, output: Path, as_json: bool
) -> None:
    """Make a latency table of another program's; its defects are counted, not hidden."""
    from latbench.report.results import show_check
    from latbench.report.terminal import print_lines
    from latbench.tables import LatencyTable, Origin
    from latbench.tables.foreign import import_table
    from latbench.tables.importers import read_foreign_table
    from nas.latency.priced_space import labelled_space

    foreign = read_foreign_table(file, kind, unit=unit)
    included: tuple[Any, ...] = ()
    if foreign.space is not None:
        space = labelled_space(foreign.space)
        included = (*space.stem, *space.tail)
    origin = Origin(
        kind,
        utf8(file.name),
        foreign.duplicates,
        foreign.unmapped,
        foreign.not_finite,
        foreign.defects,
    )
    import_table(foreign, output, origin=origin, device=utf8(device), included=included)
    found = LatencyTable.open(output).check(None)

    def render() -> None:
        show_check(found, imported=True)
        print_lines([*(f"defect: {d}" for d in origin.defects), f"wrote {output}"])

    emit(found.as_dict(), as_json=as_json, render=render)
