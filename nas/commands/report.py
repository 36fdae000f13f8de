"""``latbench report``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import example, json_option, named, output_file
from latbench.commands.output import emit


@click.command(
    epilog=example(
        "latbench report runs/demo -o report.html",
        "latbench report runs/search t.sqlite runs/trained -o report.html",
        "latbench report t.sqlite --format md -o report.md",
    )
)
@click.argument(
    "subjects",
    type=click.Path(path_type=Path),
    nargs=-1,
    required=True,
    metavar="RUN|TABLE|GENERATOR...",
)
@click.option(
    "--format",
    "form",
    type=named("format of a report", "html", "md"),
    default="html",
    show_default=True,
    help="A page with charts (html), or texts and tables for a pull request (md).",
)
@output_file("the report")
@json_option
def report(subjects: tuple[Path, ...], form: str, output: Path, as_json: bool) -> None:
    """Write a report of searches, trainings, tables and generators.

    The report is one page that loads nothing. A search or a training is named by its folder, and so
    is a demo. With the latency table of a search, the report shows the latency of each block and
    all measurements. Of a run in progress it shows what there is.

    Reports need the extra `report`.
    """
    import nas
    from latbench.report.terminal import print_lines

    written = nas.write_report(subjects, output, form=form)
    emit(
        written.as_dict(),
        as_json=as_json,
        render=lambda: print_lines(
            [f"wrote {written.path} ({written.bytes >> 10} KiB, {written.figures} figures)"]
        ),
    )
