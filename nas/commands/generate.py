"""``latbench generate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from latbench.commands.options import FILE, FOLDER, LATENCY, MILLIONS, json_option, named
from latbench.commands.output import emit, write_text
from nas.commands.options import needs_torch
from nas.commands.shared import open_table

if TYPE_CHECKING:
    from nas.generator import Kind


@click.command()
@click.argument("path", metavar="GENERATOR", type=FILE)
@click.option("--table", "table_path", type=FILE, help="Latency table of the device.")
@click.option("--target", "latencies", type=LATENCY, multiple=True, help="Such as 15ms.")
@click.option(
    "--target-macs",
    "macs",
    type=MILLIONS,
    multiple=True,
    help="Multiply-accumulates of convolutions in millions, such as 320. A number from 100000 on "
    "is in ones: 320000000 is the same.",
)
@click.option(
    "--target-params",
    "params",
    type=MILLIONS,
    multiple=True,
    help="Parameters in millions, such as 3.2. Numbers from 100000 on as with --target-macs.",
)
@click.option(
    "--raw", is_flag=True, help="Raw generator output, without the repair that enforces the budget."
)
@click.option("--se", is_flag=True, help="Squeeze-excite in every block.")
@click.option("--activation", type=named("activation", "relu6", "hswish"))
@click.option("-o", "--output", type=FOLDER, help="Where a file of each architecture goes.")
@json_option
def generate(
    path: Path,
    table_path: Path | None,
    latencies: tuple[float, ...],
    macs: tuple[float, ...],
    params: tuple[float, ...],
    raw: bool,
    se: bool,
    activation: Literal["relu6", "hswish"] | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """An architecture for every budget, all from one forward pass of GENERATOR.

    Budgets of two kinds are asked together: the first of one with the first of the other.
    """
    from latbench.cost import network_cost
    from latbench.report.results import show_generated

    with needs_torch():
        from nas.generator import (
            answering_space,
            answers,
            load_generator,
            raw_answers,
            requests_for,
        )

    loaded = load_generator(path)
    table = open_table(table_path) if table_path is not None else None
    space = answering_space(loaded, table, se=se, activation=activation)
    budgets: dict[Kind, tuple[float, ...]]
    budgets = {"latency": latencies, "macs": macs, "params": params}
    requests = requests_for(loaded, space, table, budgets)
    found = (raw_answers if raw else answers)(loaded, space, requests)
    rows: list[dict[str, Any]] = []
    for request, answer in zip(requests, found, strict=True):
        network = space.lower(answer.architecture)
        cost = network_cost(network).in_millions()
        rows.append(
            {
                "target": request.limits[0].budget,
                "targets": {limit.costs.kind: limit.budget for limit in request.limits},
                "conv_macs_m": cost["conv_macs_m"],
                "params_m": cost["params_m"],
                "latency_ms": table.predict(network).latency_ms if table is not None else None,
                "changes": answer.changes,
                "architecture": answer.architecture.as_dict(),
            }
        )
        if output is not None:
            write_text(output / f"{request}.json", answer.architecture.to_json())
    emit({"architectures": rows}, as_json=as_json, render=lambda: show_generated(rows, output))
