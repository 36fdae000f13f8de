"""``latbench align``."""

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
)
from latbench.commands.output import emit, progress
from latbench.errors import InvalidFileError
from latbench.files import is_json_file
from nas.commands.options import model_options

if TYPE_CHECKING:
    from latbench.device import DeviceProfile


@click.command(
    epilog=example(
        "latbench align model.onnx --device cpu-onnxruntime -o faster.onnx",
        "latbench align model.onnx --device cpu-openvino --batch-size 1 -o faster.onnx",
    )
)
@click.argument("model", type=FILE)
@click.option(
    "--device",
    type=DEVICE,
    required=True,
    metavar="DEVICE",
    help="Device profile to measure on: a name that `latbench devices` lists, or a file.",
)
@model_options
@click.option(
    "--time-limit",
    type=DURATION,
    default="3min",
    show_default=True,
    help="How long to measure. At least 8 passes choose the widths and 20 compare the result.",
)
@output_file("the padded ONNX model")
@quiet_option
@json_option
def align(
    model: Path,
    device: DeviceProfile,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    batch_size: int | None,
    time_limit: float,
    output: Path,
    as_json: bool,
) -> None:
    """Make a network faster without changing its outputs.

    MODEL is an ONNX file. Numbers of channels for which the runtime has only slow kernels are
    raised, with channels that are zero. What pays is measured on the device. The outputs are
    compared on random and on extreme inputs. If no padding pays, nothing is written.
    """
    import latbench
    from latbench.report.comparisons import show_alignment

    if is_json_file(model):
        raise InvalidFileError(
            f"{model} is not an ONNX model: if it is an architecture, write its model with "
            "`latbench export` first"
        )
    with progress("aligning") as shown:
        found = latbench.align(
            model,
            device,
            output=output,
            shapes=dict(shapes),
            batch_size=batch_size,
            time_limit=time_limit,
            progress=shown,
        )
    emit(found.as_dict(), as_json=as_json, render=lambda: show_alignment(found))
