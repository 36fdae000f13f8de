"""``latbench search``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from latbench.commands.options import (
    FILE,
    MANY,
    example,
    json_option,
    seed_option,
)
from latbench.commands.output import emit, progress
from nas.commands.options import (
    SEARCHER,
    SPACE,
    data_options,
    images_option,
    length_options,
    recipe_option,
    run_option,
    set_option,
    space_options,
    targets_option,
    torch_device_option,
    widths_option,
)


@click.command(
    epilog=example(
        "latbench search tfnas --table t.sqlite --target 0.5ms --data digits -o runs/a",
        "latbench search spos --searcher evolution --max-macs 30M --data cifar100 -o runs/b",
    )
)
@click.argument("space", type=SPACE)
@click.option(
    "--searcher",
    type=SEARCHER,
    default="tfnas",
    show_default=True,
    help="Algorithm: random, evolution, nsga2, exact, softmax, gumbel, tfnas or sgnas.",
)
@click.option(
    "--table",
    "tables",
    type=FILE,
    multiple=True,
    metavar="TABLE",
    help="Latency table, written by `latbench profile`. Give one for each device on which the "
    "target holds. A search with only --max-macs or --max-params needs none.",
)
@space_options
@targets_option(
    "Give one for each architecture to find. It is not needed with the limits below, or to train a "
    "generator."
)
@click.option(
    "--max-macs",
    type=MANY,
    help="Largest number of multiply-accumulates at every target, such as 30M. A bare number below "
    "100000 is in millions: 30 is 30M.",
)
@click.option(
    "--max-params",
    type=MANY,
    help="Largest number of parameters at every target, such as 3M. Bare numbers as in --max-macs.",
)
@widths_option("efficient")
@data_options
@images_option
@length_options(
    epochs="Number of epochs; the schedule is scaled to it.  [default: the recipe's]",
    batch_size="Images a step.  [default: the recipe's]",
)
@recipe_option
@set_option
@seed_option
@click.option(
    "--measured",
    is_flag=True,
    help="Measure each network found, and correct it until its measured latency meets the target. "
    "The option can be added to a finished search.",
)
@torch_device_option
@run_option
@json_option
def search(
    space: str,
    searcher: str,
    tables: tuple[Path, ...],
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: Literal["relu6", "hswish"],
    targets: tuple[float, ...],
    max_macs: float | None,
    max_params: float | None,
    widths: str,
    data: str,
    data_dir: Path | None,
    images: int | None,
    epochs: int | None,
    batch_size: int | None,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    measured: bool,
    torch_device: str,
    output: Path,
    as_json: bool,
) -> None:
    """Find architectures under latency budgets.

    SPACE is a search space that `latbench spaces` lists. The tables define its input size, classes
    and variant; without a table the options do. Repeat the command to resume after an interruption.
    Under `torchrun --no-python`, all processes search together.
    """
    import nas
    from nas.report.searches import show_search

    with progress("searching") as shown:
        found = nas.search(
            space,
            tables,
            data=data,
            output=output,
            targets=targets,
            max_macs=max_macs,
            max_params=max_params,
            searcher=searcher,
            widths=widths,
            input_size=input_size,
            classes=classes,
            variant=nas.Variant(se, activation),
            data_dir=data_dir,
            images=images,
            epochs=epochs,
            batch_size=batch_size,
            recipe=recipe,
            settings=settings,
            seed=seed,
            measured=measured,
            torch_device=torch_device,
            progress=shown,
        )
    emit(found.as_dict(), as_json=as_json, render=lambda: show_search(found))
