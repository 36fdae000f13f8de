"""``latbench table diff``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from latbench.commands.options import FILE, example, json_option, tolerance_option
from latbench.commands.output import EXIT_FAILED_CHECK, emit


@click.command("diff", epilog=example("latbench table diff before.sqlite after.sqlite"))
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@tolerance_option("Largest change of a latency that does not matter")
@json_option
def table_diff(before: Path, after: Path, tolerance: float, as_json: bool) -> None:
    """Show which blocks are slower in AFTER than in BEFORE.

    Both are latency tables of one space. Every block gets a verdict: SLOWER, FASTER, SAME or
    UNSURE. The exit code is 1 if a block is slower, so a script can reject a slower runtime.
    """
    import latbench
    from latbench.report.results import show_difference

    found = latbench.compare_tables(before, after, tolerance=tolerance)
    emit(
        found.as_dict(),
        as_json=as_json,
        render=lambda: show_difference(found, tolerance=tolerance),
    )
    if not found.passed:
        sys.exit(EXIT_FAILED_CHECK)
