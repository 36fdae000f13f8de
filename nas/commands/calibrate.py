"""``latbench calibrate``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import COUNT, FILE, SEED, json_option
from latbench.commands.output import emit
from nas.commands.options import widths_option
from nas.commands.shared import open_table, priced_space

CALIBRATION_STREAM = (
    2  # keeps its networks apart from those that `verify` draws under the same seed
)


@click.command()
@click.argument("table_path", metavar="TABLE", type=FILE)
@click.option("--networks", type=COUNT, default=24, show_default=True, help="Networks to add.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@widths_option("efficient")
@json_option
def calibrate(table_path: Path, networks: int, seed: int, widths: str, as_json: bool) -> None:
    """Measure more whole networks and fit the prices of TABLE on them too."""
    import numpy as np

    from latbench.profilers import make_profiler
    from latbench.report.results import show_calibration
    from latbench.report.terminal import progress_bar
    from latbench.workflows.verification import calibrate as run_calibrate

    opened = open_table(table_path)
    profiler = make_profiler(opened.device)
    priced = priced_space(opened, widths)
    rng = np.random.default_rng([seed, CALIBRATION_STREAM])
    drawn = [priced.space.lower(priced.space.random(rng, priced.widths)) for _ in range(networks)]
    with progress_bar("calibrating") as progress:
        stored = run_calibrate(profiler, opened, drawn, progress=progress)
    result = {
        "networks": stored.price.networks,
        "loo_error": stored.price.loo_error,
        "max_loo_error": max(map(abs, stored.price.left_out_errors)),
        "loo_error_before": opened.price_model.loo_error,
        "interval_half_width": stored.price.half_width(),
        "floor": stored.floor,
    }
    emit(
        result,
        as_json=as_json,
        render=lambda: show_calibration(stored, before=opened.price_model, path=table_path),
    )
