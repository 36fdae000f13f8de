"""``latbench export``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import (
    FILE,
    example,
    json_option,
    output_file,
    quiet_option,
)
from latbench.commands.output import emit, progress


@click.command(
    epilog=example("latbench export arch.json --weights runs/a/weights.safetensors -o model.onnx")
)
@click.argument("architecture", type=FILE)
@click.option(
    "--weights",
    type=FILE,
    metavar="FILE",
    help="Trained weights: RUN/weights.safetensors of `latbench train`.  [default: random weights]",
)
@output_file("the ONNX model")
@quiet_option
@json_option
def export(architecture: Path, weights: Path | None, output: Path, as_json: bool) -> None:
    """Write a deployable ONNX model.

    The model is ARCHITECTURE with its batch norms folded. Its outputs are compared with those of
    torch; if they deviate, nothing is written.
    """
    import nas
    from latbench.report.terminal import print_lines

    with progress("exporting") as shown:
        made = nas.export(architecture, output, weights=weights, progress=shown)
    words = f"it deviates from torch by {made.deviation:.1e} of the largest logit"
    emit(
        made.as_dict(),
        as_json=as_json,
        render=lambda: print_lines([f"wrote {output}; {words}"]),
    )
