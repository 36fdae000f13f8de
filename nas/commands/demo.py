"""``latbench demo``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FOLDER, json_option
from latbench.commands.output import emit
from latbench.units import format_ms
from nas.commands.options import needs_torch


@click.command()
@click.option("-o", "--output", type=FOLDER, default="runs/demo", show_default=True)
@json_option
def demo(output: Path, as_json: bool) -> None:
    """Profile this machine, search, train and verify a network, in minutes."""
    from latbench.report.terminal import print_lines, print_table, progress_bar

    with needs_torch():
        from nas.demo import run_demo
    result = run_demo(output, progress_bar)
    payload = {
        "target_ms": result.target_ms,
        "predicted_ms": result.predicted_ms,
        "measured_ms": result.measured_ms,
        "top1": result.top1,
        "error": result.error,
        "architecture": result.architecture.as_dict(),
    }

    away = result.measured_ms / result.target_ms - 1

    def render() -> None:
        print_table(
            ("", ""),
            [
                ("target", format_ms(result.target_ms)),
                ("predicted", format_ms(result.predicted_ms)),
                ("measured", f"{format_ms(result.measured_ms)} ({away:+.1%} of the target)"),
                ("top-1 on digits", f"{result.top1:.1%}"),
            ],
        )
        print_lines([f"everything is in {output}"])

    emit(payload, as_json=as_json, render=render)
