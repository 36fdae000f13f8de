"""``latbench train``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import FILE, SEED, example, json_option
from latbench.commands.output import emit, progress
from nas.commands.options import (
    data_options,
    images_option,
    length_options,
    recipe_option,
    run_option,
    set_option,
    torch_device_option,
)


@click.command(epilog=example("latbench train arch.json --data digits --epochs 16 -o runs/a"))
@click.argument("architecture", type=FILE)
@data_options
@images_option
@recipe_option
@set_option
@length_options(
    epochs="Number of epochs, instead of the recipe's.  [default: 30]",
    batch_size="Images a step, instead of the recipe's.  [default: 64]",
)
@click.option(
    "--seed",
    type=SEED,
    metavar="N",
    help="Seed of all random draws, instead of the recipe's.  [default: 0]",
)
@torch_device_option
@run_option
@json_option
def train(
    architecture: Path,
    data: str,
    data_dir: Path | None,
    images: int | None,
    recipe: str | None,
    settings: tuple[str, ...],
    epochs: int | None,
    batch_size: int | None,
    seed: int | None,
    torch_device: str,
    output: Path,
    as_json: bool,
) -> None:
    """Train an architecture from scratch.

    The weights of ARCHITECTURE and its test metrics are written into the run's folder. Repeat the
    command to resume after an interruption. Under `torchrun --no-python`, all processes train
    together.
    """
    import nas
    from nas.report.metrics import show_training

    with progress("training") as shown:
        trained = nas.train(
            architecture,
            data,
            output=output,
            recipe=recipe,
            settings=settings,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            data_dir=data_dir,
            images=images,
            torch_device=torch_device,
            progress=shown,
        )
    emit(trained.as_dict(), as_json=as_json, render=lambda: show_training(trained))
