"""``latbench train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from latbench.commands.options import FILE, example, json_option, quiet_option
from latbench.commands.output import EXIT_FAILED_CHECK, emit, progress
from latbench.errors import InvalidValueError
from nas.commands.options import crew_options, training_options


@click.command(
    epilog=example(
        "latbench train arch.json --data digits --epochs 16 -o runs/a",
        "latbench train a.json b.json c.json --data digits --workers 2 -o runs/abc",
    )
)
@click.argument("architectures", type=FILE, nargs=-1, required=True, metavar="ARCHITECTURE...")
@training_options(
    epochs="Number of epochs, instead of the recipe's.  [default: 30]",
    seed="Seed of all random draws, instead of the recipe's.  [default: 0]",
)
@crew_options("train several architectures, with one thread each")
@quiet_option
@json_option
def train(
    architectures: tuple[Path, ...],
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
    workers: int | None,
    ray: str | None,
    as_json: bool,
) -> None:
    """Train architectures from scratch.

    The weights of ARCHITECTURE and its test metrics are written into the run's folder; of several
    architectures, each has a folder in it, named after its file. Repeat the command to resume after
    an interruption. Under `torchrun --no-python`, all processes train together.
    """
    import nas
    from nas.report.metrics import show_training, show_trainings

    if len(architectures) == 1 and (workers, ray) != (None, None):
        raise InvalidValueError(
            "workers share several architectures: give more than one, or leave out --workers and "
            "--ray"
        )
    asked: dict[str, Any] = {
        "output": output,
        "recipe": recipe,
        "settings": settings,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "data_dir": data_dir,
        "images": images,
        "torch_device": torch_device,
    }
    if len(architectures) == 1:
        with progress("training") as shown:
            trained = nas.train(architectures[0], data, **asked, progress=shown)
        emit(trained.as_dict(), as_json=as_json, render=lambda: show_training(trained))
        return
    with progress("training") as shown:
        several = nas.train_several(
            architectures, data, **asked, workers=workers, ray=ray, progress=shown
        )
    rows = [each.as_dict() for each in several]
    emit({"networks": rows}, as_json=as_json, render=lambda: show_trainings(several))
    if any(each.error for each in several):
        sys.exit(EXIT_FAILED_CHECK)
