"""``latbench demo``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import (
    example,
    json_option,
    quiet_option,
)
from latbench.commands.output import emit, progress
from nas.commands.options import folder_option


@click.command(epilog=example("latbench demo -o runs/demo"))
@folder_option("for all results", default="runs/demo")
@quiet_option
@json_option
def demo(output: Path, as_json: bool) -> None:
    """Profile, search, verify and train, in minutes.

    The demo runs the main job on this machine at small size. It makes a rough latency table,
    searches a network for a budget, measures whether it keeps the budget, and trains it on
    scikit-learn's digits. Repeat the command to resume after an interruption.
    """
    import nas
    from nas.report.page.folder_report import folder_report, show_report
    from nas.report.searches import show_demo

    with progress("demo") as shown:
        result = nas.run_demo(output, progress=shown)
        report = folder_report(output)
    found = result.as_dict() | {"report": report}
    emit(found, as_json=as_json, render=lambda: show_demo(result, output))
    if not as_json:
        show_report(report)
