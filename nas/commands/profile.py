"""``latbench profile``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from latbench.commands.options import DURATION, FILE, json_option
from latbench.commands.output import EXIT_INTERRUPTED, emit
from latbench.errors import InvalidValueError
from nas.commands.options import space_options
from nas.commands.shared import open_table


@click.command()
@click.argument("device")
@click.argument("space")
@click.option("-o", "--output", type=FILE, help="Latency table to fill or resume.")
@space_options
@click.option("--time-limit", type=DURATION, default="20min", show_default=True)
@click.option(
    "--from", "source", type=FILE, help="Tell most of it from another device's table of SPACE."
)
@click.option("--plan", is_flag=True, help="Say blocks, minutes and memory, and measure nothing.")
@json_option
def profile(
    device: str,
    space: str,
    output: Path | None,
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: Literal["relu6", "hswish"],
    time_limit: float,
    source: Path | None,
    plan: bool,
    as_json: bool,
) -> None:
    """Measure the blocks of SPACE on DEVICE into a latency table, or go on with one."""
    from dataclasses import asdict

    from latbench.device import load_profile
    from latbench.profilers import make_profiler
    from latbench.report.results import show_forecast, show_profile, show_transfer
    from latbench.report.terminal import progress_bar
    from nas.latency.priced_space import forecast_space, profile_space, transfer_space
    from nas.spaces import Variant, make_space

    profiler = make_profiler(load_profile(device))
    made = make_space(space, input_size, classes, Variant(se, activation))
    if plan:
        expected = forecast_space(profiler, made, time_limit_s=time_limit)
        emit(asdict(expected), as_json=as_json, render=lambda: show_forecast(expected))
        return
    if output is None:
        raise InvalidValueError("profile needs -o TABLE, the latency table to fill or resume")
    if source is not None:
        with progress_bar("transferring") as progress:
            told = transfer_space(profiler, output, made, open_table(source), progress=progress)
        reached = {
            "blocks": told.blocks,
            "measured": told.measured,
            "left_out_error": told.left_out_error,
            "half_width": told.half_width,
            "loo_error": told.fit.price.loo_error,
        }
        emit(reached, as_json=as_json, render=lambda: show_transfer(told, output))
        return
    with progress_bar("profiling") as progress:
        result = profile_space(profiler, output, made, time_limit_s=time_limit, progress=progress)
    emit(asdict(result), as_json=as_json, render=lambda: show_profile(result, output))
    if result.stopped == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
