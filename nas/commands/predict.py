"""``latbench predict``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, json_option, table_option
from latbench.commands.output import emit
from latbench.units import format_ms
from nas.commands.shared import images_in_words, open_table


@click.command()
@click.argument("architecture", type=FILE)
@table_option
@json_option
def predict(architecture: Path, table_path: Path, as_json: bool) -> None:
    """Latency of ARCHITECTURE according to a table."""
    from dataclasses import asdict

    from latbench.report.terminal import print_lines
    from nas.latency.priced_space import space_label
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    opened = open_table(table_path)
    opened.require_space(space_label(space))
    result = opened.predict(space.lower(arch))
    emit(
        asdict(result),
        as_json=as_json,
        render=lambda: print_lines(
            [
                f"{format_ms(result.latency_ms)} for {images_in_words(opened.device.batch_size)} "
                f"on {opened.device.name}"
                + (
                    f"; 90 % interval {format_ms(result.low_ms)} to {format_ms(result.high_ms)}"
                    if result.low_ms is not None and result.high_ms is not None
                    else "; `latbench calibrate` adds an interval"
                )
            ]
        ),
    )
