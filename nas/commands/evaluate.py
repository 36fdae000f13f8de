"""``latbench evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FOLDER, json_option
from latbench.commands.output import emit
from nas.commands.options import data_dir_option, data_option
from nas.commands.shared import load_images, metrics_in_words, trained_architecture


@click.command()
@click.argument("run", type=FOLDER)
@data_option
@data_dir_option
@json_option
def evaluate(run: Path, data: str, data_dir: Path | None, as_json: bool) -> None:
    """Test the network that was trained in RUN."""
    from latbench.report.terminal import print_lines

    arch, space = trained_architecture(run)
    loaded = load_images(data, data_dir, arch.input_size, arch.classes, None)
    from nas.training import from_scratch as scratch

    model = scratch.load_model(space.lower(arch), run / scratch.WEIGHTS)
    score = scratch.test(model, loaded)
    emit(score, as_json=as_json, render=lambda: print_lines([metrics_in_words(score)]))
