"""``latbench explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import (
    DEVICE,
    DURATION,
    FILE,
    example,
    json_option,
    output_file,
    quiet_option,
    written_file,
)
from latbench.commands.output import after_result, emit, progress
from latbench.files import is_json_file
from nas.commands.options import model_options

if TYPE_CHECKING:
    from latbench.device import DeviceProfile


@click.command(
    epilog=example(
        "latbench explain model.onnx --device cpu-onnxruntime",
        "latbench explain model.onnx --device cpu-onnxruntime -o segments.sqlite",
        "latbench explain model.onnx --table segments.sqlite --overlay latencies.json",
    )
)
@click.argument("model", type=FILE)
@click.option(
    "--device",
    type=DEVICE,
    metavar="DEVICE",
    help="Device profile to measure on: a name that `latbench devices` lists, or a file.",
)
@click.option(
    "--table",
    type=FILE,
    metavar="TABLE",
    help="Table to read instead, which -o of this command or `latbench profile` wrote.",
)
@model_options
@click.option(
    "--time-limit",
    type=DURATION,
    default="2min",
    show_default=True,
    help="How long to measure with --device.",
)
@output_file("the latency table of the segments", required=False)
@written_file(
    "--overlay", help="File for the latencies as node data of Model Explorer, for an ONNX file."
)
@quiet_option
@json_option
def explain(
    model: Path,
    device: DeviceProfile | None,
    table: Path | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    batch_size: int | None,
    time_limit: float,
    output: Path | None,
    overlay: Path | None,
    as_json: bool,
) -> None:
    """Show where the milliseconds of a network go.

    MODEL is an ONNX file, or an architecture as a JSON file. It is cut where a single tensor is
    live. Its segments, chains of them and the whole are measured in one shuffled sweep; the prices
    of the segments are fitted on the chains, so that they add up to the whole.
    """
    import nas
    from latbench.errors import InvalidValueError
    from latbench.report.comparisons import show_explanation

    if overlay is not None and is_json_file(model):
        raise InvalidValueError("an overlay is for the nodes of an ONNX file: leave out --overlay")
    with progress("explaining") as shown:
        found = nas.explain(
            model,
            device,
            table=table,
            output=output,
            shapes=dict(shapes),
            batch_size=batch_size,
            time_limit=time_limit,
            progress=shown,
        )
    emit(found.as_dict(), as_json=as_json, render=lambda: show_explanation(found))
    if overlay is None:
        return
    from latbench.report.overlay import write_overlay
    from latbench.report.terminal import print_lines

    with after_result():
        marked, nodes = write_overlay(overlay, model, found)
    if not as_json:
        print_lines([f"wrote {overlay}: {marked} of {nodes} nodes of the file have a latency"])
