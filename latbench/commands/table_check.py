"""``latbench table check``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from latbench.commands.options import FILE, example, json_option
from latbench.commands.output import EXIT_FAILED_CHECK, emit


@click.command("check", epilog=example("latbench table check t.sqlite"))
@click.argument("table", type=FILE)
@json_option
def table_check(table: Path, as_json: bool) -> None:
    """Find unreliable entries of TABLE.

    An entry is unreliable if its price is noisy or not positive. All entries are unreliable if the
    machine or the runtime has changed since. The exit code is 1 if there are any.
    """
    import latbench
    from latbench.report.results import show_check

    opened = latbench.LatencyTable.open(table)
    found = latbench.check_table(opened)
    imported = opened.origin is not None
    emit(found.as_dict(), as_json=as_json, render=lambda: show_check(found, imported=imported))
    if not found.passed:
        sys.exit(EXIT_FAILED_CHECK)
