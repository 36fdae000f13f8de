"""``latbench export``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, json_option
from latbench.commands.output import emit
from nas.commands.options import needs_torch


@click.command()
@click.argument("architecture", type=FILE)
@click.option("--weights", type=FILE, help="Of a trained run; fresh ones without.")
@click.option("-o", "--output", type=FILE, required=True)
@json_option
def export(architecture: Path, weights: Path | None, output: Path, as_json: bool) -> None:
    """Write ARCHITECTURE as a deployable ONNX model, checked against torch."""
    from latbench.report.terminal import print_lines
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    with needs_torch():
        from nas.export import export_onnx
    deviation = export_onnx(space.lower(arch), weights, output)
    emit(
        {"path": str(output), "deviation": deviation},
        as_json=as_json,
        render=lambda: print_lines(
            [f"wrote {output}; it deviates from torch by {deviation:.1e} of the largest logit"]
        ),
    )
