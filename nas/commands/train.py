"""``latbench train``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import BATCH, COUNT, FILE, SEED, json_option
from latbench.commands.output import emit
from nas.commands.options import (
    data_dir_option,
    data_option,
    needs_torch,
    recipe_option,
    run_option,
    set_option,
)
from nas.commands.shared import load_images, metrics_in_words, run_folder, silent


@click.command()
@click.argument("architecture", type=FILE)
@data_option
@data_dir_option
@click.option("--images", type=COUNT, help="Train on this many images.")
@recipe_option
@set_option
@click.option("--epochs", type=COUNT, help="Instead of the recipe's.  [default: 30]")
@click.option("--batch-size", type=BATCH, help="Instead of the recipe's.  [default: 64]")
@click.option("--seed", type=SEED, help="Instead of the recipe's.  [default: 0]")
@run_option
@json_option
def train(
    architecture: Path,
    data: str,
    data_dir: Path | None,
    images: int | None,
    recipe: str | None,
    changes: tuple[str, ...],
    epochs: int | None,
    batch_size: int | None,
    seed: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Train ARCHITECTURE from scratch; the same -o goes on where it stopped.

    Started by `torchrun --no-python`, all its processes train together.
    """
    import msgspec

    from latbench.report.terminal import print_lines, progress_bar
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    with needs_torch():
        from nas.training import from_scratch as scratch
        from nas.training.distributed import workers
    from nas.recipes import load_recipe
    from nas.training.recipe import TrainingRecipe

    asked = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    given = [f"{key}={value}" for key, value in asked.items() if value is not None]
    chosen = load_recipe(TrainingRecipe, recipe, [*changes, *given])
    config = {
        "command": "train",
        "architecture": arch.as_dict(),
        "data": data,
        "images": images,
        "recipe": msgspec.to_builtins(chosen),
    }
    loaded = load_images(data, data_dir, arch.input_size, arch.classes, images)
    with workers() as group:
        scratch.check(space.lower(arch), loaded, chosen, group)
        folder = run_folder(output, config, group)
        with progress_bar("training") if group.leads else silent() as progress:
            score = scratch.train(
                space.lower(arch), loaded, chosen, folder, group=group, progress=progress
            )
        if group.leads:
            words = f"{metrics_in_words(score)}; weights in {output}"
            emit(score, as_json=as_json, render=lambda: print_lines([words]))
