"""``latbench fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import FILE, LATENCY, json_option, named, table_option
from latbench.commands.output import emit, write_text
from latbench.units import format_ms
from nas.commands.options import widths_option
from nas.commands.shared import open_table

if TYPE_CHECKING:
    from nas.latency.correction import Landing
    from nas.latency.priced_space import PricedSpace
    from nas.latency.width_scaling import Fit
    from nas.spaces import Architecture


@click.command()
@click.argument("architecture", type=FILE)
@table_option
@click.option("--target", type=LATENCY, required=True, help="Such as 15ms.")
@click.option("--method", type=named("method", "exact", "greedy"), default="exact")
@widths_option("any")
@click.option("--measured", is_flag=True, help="Correct the widths until the device agrees.")
@click.option("-o", "--output", type=FILE, help="Where the fitted architecture goes.")
@json_option
def fit(
    architecture: Path,
    table_path: Path,
    target: float,
    method: str,
    widths: str,
    measured: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Scale the widths of ARCHITECTURE to a latency, as predicted or as measured."""
    from latbench.report.terminal import print_lines
    from nas.latency.priced_space import PricedSpace
    from nas.latency.width_scaling import METHODS
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    priced = PricedSpace(space, open_table(table_path), efficient=widths == "efficient")
    landing = _land(priced, arch, target) if measured else None
    result = landing.fit if landing else METHODS[method](priced, arch, target)
    if output is not None:
        write_text(output, result.architecture.to_json())

    def render() -> None:
        print_lines(
            [
                f"{format_ms(result.latency_ms)}, {1 - result.latency_ms / target:.2%} below the "
                f"target; this architecture reaches {format_ms(result.min_ms)} to "
                f"{format_ms(result.max_ms)}",
                *([f"{format_ms(landing.measured_ms)} measured"] if landing else []),
                f"wrote {output}" if output else result.architecture.to_json(),
            ]
        )

    emit(
        {
            "target_ms": target,
            "latency_ms": result.latency_ms,
            "min_ms": result.min_ms,
            "max_ms": result.max_ms,
            "architecture": result.architecture.as_dict(),
        }
        | ({"measured_ms": landing.measured_ms, "rounds": landing.rounds} if landing else {}),
        as_json=as_json,
        render=render,
    )


def _land(priced: PricedSpace, arch: Architecture, target_ms: float) -> Landing[Fit]:
    from latbench.report.terminal import progress_bar
    from nas.latency.correction import land, measurer, widths_of

    measure = measurer(priced.table)
    with progress_bar("measuring") as progress:

        def measure_ms(candidate: Architecture) -> float:
            return measure(priced.space.lower(candidate), progress)

        return land(priced, widths_of(priced, arch), target_ms, measure_ms)
