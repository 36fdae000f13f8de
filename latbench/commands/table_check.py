"""``latbench table check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import FILE, json_option
from latbench.commands.output import EXIT_FAILED_CHECK, emit

if TYPE_CHECKING:
    pass


@click.command("check")
@click.argument("path", type=FILE)
@json_option
def table_check(path: Path, as_json: bool) -> None:
    """Find non-positive, noisy and stale entries; exit code 1 if there are any."""
    from latbench.profilers import PROFILERS, make_profiler
    from latbench.report.results import show_check
    from latbench.tables import LatencyTable

    opened = LatencyTable.open(path)
    now = None
    if (
        opened.origin is None
        and PROFILERS[opened.device.runtime].unavailable(opened.device) is None
    ):
        now = make_profiler(opened.device).environment()
    found = opened.check(now)
    emit(
        found.as_dict(),
        as_json=as_json,
        render=lambda: show_check(found, imported=opened.origin is not None),
    )
    if not found.passed:
        sys.exit(EXIT_FAILED_CHECK)
