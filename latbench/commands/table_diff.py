"""``latbench table diff``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from latbench.commands.options import FILE, json_option
from latbench.commands.output import EXIT_FAILED_CHECK, emit


@click.command("diff")
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.05,
    show_default=True,
    help="Change of a latency that does not matter, a fraction.",
)
@json_option
def table_diff(before: Path, after: Path, tolerance: float, as_json: bool) -> None:
    """Say of every block whether AFTER is slower than BEFORE; exit code 1 if one is."""
    from latbench.blocks import block_key
    from latbench.report.results import show_difference
    from latbench.tables import TableStore
    from latbench.tables.comparison import compare

    with TableStore.open(before) as old, TableStore.open(after) as new:
        found = compare(old, new, tolerance=tolerance)
    slower = found.count("SLOWER")
    result = {
        "blocks": [
            {
                "block": block_key(change.spec),
                "ratio": change.ratio,
                "low": change.low,
                "high": change.high,
                "p_value": change.p_value,
                "verdict": change.verdict,
            }
            for change in found.changes
        ],
        "same": found.count("SAME"),
        "faster": found.count("FASTER"),
        "slower": slower,
        "unsure": found.count("UNSURE"),
        "ratio": found.ratio,
        "only_before": found.only_before,
        "only_after": found.only_after,
        "environment": list(found.environment),
        "passed": slower == 0,
    }
    emit(result, as_json=as_json, render=lambda: show_difference(found, tolerance=tolerance))
    if slower:
        sys.exit(EXIT_FAILED_CHECK)
