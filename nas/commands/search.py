"""``latbench search``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from latbench.commands.options import (
    COUNT,
    FILE,
    MANY,
    MEMORY,
    example,
    json_option,
    quiet_option,
    seed_option,
)
from latbench.commands.output import EXIT_FAILED_CHECK, emit, is_first, progress
from nas.commands.options import (
    SEARCHER,
    SPACE,
    confidence_option,
    crew_options,
    data_options,
    images_option,
    length_options,
    recipe_option,
    run_option,
    set_option,
    space_options,
    targets_option,
    torch_device_option,
    until_verified_option,
    widths_option,
)


@click.command(
    epilog=example(
        "latbench search tfnas --table t.sqlite --target 0.5ms --data digits -o runs/a",
        "latbench search spos --searcher evolution --max-macs 30M --data cifar100 -o runs/b",
        "latbench search tfnas --table t.sqlite --front 5 --data digits -o runs/c",
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
    "target holds; with sgnas it holds on the first, and the generator learns the others. A "
    "search with only --max-macs or --max-params needs none.",
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
@click.option(
    "--max-memory",
    type=MEMORY,
    help="Largest peak memory of the activations of one image in fp32 at every target, such as "
    "2MB. It is given beside a target or another limit.",
)
@click.option(
    "--front",
    type=COUNT,
    metavar="N",
    help="Search N targets that are spread over the feasible latencies, instead of --target.",
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
@confidence_option
@until_verified_option(
    "Measure the networks found on the first table's device and correct them, also those of a "
    "finished search,"
)
@torch_device_option
@crew_options(
    "score architectures, for searchers that score several at once (--set at_once=8; the priors of "
    "sgnas)"
)
@run_option
@quiet_option
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
    max_memory: float | None,
    front: int | None,
    widths: str,
    data: str,
    data_dir: Path | None,
    images: int | None,
    epochs: int | None,
    batch_size: int | None,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    confidence: float | None,
    until_verified: bool,
    torch_device: str,
    workers: int | None,
    ray: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Find architectures under latency budgets.

    SPACE is a search space that `latbench spaces` lists. The tables define its input size, classes
    and variant; without a table the options do. Repeat the command to resume after an interruption.
    Under `torchrun --no-python`, all processes of tfnas and sgnas search together.
    \f
    Long because it has every option of a search.
    """
    import nas
    from nas.report.page.folder_report import folder_report, show_report
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
            max_memory=max_memory,
            front=front,
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
            confidence=confidence,
            until_verified=until_verified,
            torch_device=torch_device,
            workers=workers,
            ray=ray,
            progress=shown,
        )
    emit(found.as_dict(), as_json=as_json, render=lambda: show_search(found))
    report = folder_report(output, tables) if is_first() else None
    if not as_json:
        show_report(report)
    if any(result.status not in (None, "met") for result in found):
        sys.exit(EXIT_FAILED_CHECK)
