"""``latbench search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from latbench.commands.options import BATCH, COUNT, FILE, LATENCY, MANY, SEED, json_option
from latbench.commands.output import emit
from latbench.errors import InvalidValueError
from latbench.units import format_ms
from nas.commands.options import (
    data_dir_option,
    data_option,
    recipe_option,
    run_option,
    set_option,
    space_options,
    widths_option,
)
from nas.commands.shared import (
    check_tables,
    load_images,
    open_table,
    priced_space,
    run_folder,
    search_recipe,
    searchers,
    silent,
)

if TYPE_CHECKING:
    from nas.searchers import SearchResult


@click.command()
@click.argument("space")
@click.option("--searcher", default="tfnas", show_default=True)
@click.option(
    "--table",
    "table_paths",
    type=FILE,
    multiple=True,
    help="Latency table, made by `profile`; once a device that the target holds on. A search "
    "under --max-macs or --max-params alone needs none.",
)
@space_options
@click.option(
    "--target",
    "targets",
    type=LATENCY,
    multiple=True,
    help="Once a budget; may be left out under the limits below or for a generator.",
)
@click.option(
    "--max-macs",
    type=MANY,
    help="Multiply-accumulates at every target, such as 30M. A bare number below 100000 is in "
    "millions: 30 is 30M.",
)
@click.option(
    "--max-params",
    type=MANY,
    help="Parameters at every target, such as 3M. Bare numbers as with --max-macs.",
)
@widths_option("efficient")
@data_option
@data_dir_option
@click.option("--images", type=COUNT, help="Search on this many training images.")
@click.option("--epochs", type=COUNT, help="Scales the published schedule.")
@click.option("--batch-size", type=BATCH)
@recipe_option
@set_option
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--measured", is_flag=True, help="End with what is measured at the targets; also later."
)
@run_option
@json_option
def search(
    space: str,
    searcher: str,
    table_paths: tuple[Path, ...],
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
    changes: tuple[str, ...],
    seed: int,
    measured: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Find architectures of SPACE under budgets; the same -o goes on where it stopped.

    The tables say input size, classes and variant of SPACE; without a table the options do.
    """
    import msgspec

    from latbench.cost import network_cost
    from latbench.report.terminal import print_lines, print_table, progress_bar
    from nas.latency.priced_space import space_label
    from nas.optimize.constraints import COUNTED, Count, Limit
    from nas.spaces import Variant, make_space

    family = searchers()[searcher]
    from nas.latency.correction import measurer
    from nas.searchers.base import SearchSettings, architecture_file, generator_file
    from nas.training.distributed import workers

    asked = make_space(space, input_size, classes, Variant(se, activation))
    tables = [open_table(path) for path in table_paths]
    check_tables(tables, asked, input_size=input_size, classes=classes)
    priced = [priced_space(table, widths) for table in tables]
    searched = priced[0].space if priced else asked
    chosen = search_recipe(family, searcher, recipe, changes)
    if measured and not tables:
        raise InvalidValueError("--measured needs --table, which says on which device to measure")
    measure = measurer(tables[0]) if measured else None
    loaded = load_images(data, data_dir, searched.input_size, searched.classes, images)
    config = {
        "command": "search",
        "space": space,
        "searcher": searcher,
        "tables": [{"device": t.device.name, "space": str(t.space)} for t in tables]
        or [{"space": str(space_label(searched))}],
        "prices": [msgspec.to_builtins(t.price_model) for t in tables],
        "targets_ms": list(targets),
        "max_macs": max_macs,
        "max_params": max_params,
        "widths": widths,
        "data": data,
        "images": images,
        "epochs": epochs,
        "batch_size": batch_size,
        "recipe": msgspec.to_builtins(chosen),
        "seed": seed,
    }
    with workers() as group:
        limits = tuple(
            Limit(Count(searched, kind), amount)
            for kind, amount in zip(COUNTED, (max_macs, max_params), strict=True)
            if amount is not None
        )
        settings = SearchSettings(
            epochs, batch_size, seed, chosen, group, tuple(priced[1:]), measure, limits
        )
        made = family(priced[0] if priced else searched, settings)
        made.check(loaded, targets)
        folder = run_folder(output, config, group)
        with progress_bar("searching") if group.leads else silent() as progress:
            results = made.search(loaded, targets, folder, progress=progress)
    if not group.leads:
        return

    files = [architecture_file(output, result.target_ms) for result in results]
    costs = [network_cost(searched.lower(result.architecture)) for result in results]
    known = "accuracy" if loaded.task == "classification" else "fitness"

    def render() -> None:
        if results:
            print_found()
        if generator_file(output).exists():
            print_lines([f"any budget: latbench generate {generator_file(output)} ..."])

    def print_found() -> None:
        print_table(
            (
                *(["target", "predicted"] if tables else []),
                *(["measured", "rounds"] if measured else []),
                *(["below target"] if tables else []),
                *(["MACs, M", "params, M"] if limits else []),
                *(f"supernet's {known}", "argmax"),
            ),
            [
                (
                    *([_ms(result.target_ms), _ms(result.latency_ms)] if tables else []),
                    *(
                        [format_ms(result.landing.measured_ms), str(result.landing.rounds)]
                        if result.landing
                        else []
                    ),
                    *([_below(result)] if tables else []),
                    *([f"{c.macs / 1e6:.4g}", f"{c.params / 1e6:.4g}"] if limits else []),
                    f"{result.score:.1%}" if known == "accuracy" else f"{result.score:.3f}",
                    format_ms(result.argmax.latency_ms) if result.argmax else "",
                )
                for result, c in zip(results, costs, strict=True)
            ],
        )
        print_lines([f"next: latbench train {file} --data {data} -o RUN" for file in files])

    found = [r.as_dict() | c.in_millions() for r, c in zip(results, costs, strict=True)]
    emit({"results": found}, as_json=as_json, render=render)


def _ms(latency_ms: float | None) -> str:
    return "" if latency_ms is None else format_ms(latency_ms)


def _below(result: SearchResult) -> str:
    """How far a result is below its target, a percentage."""
    if result.target_ms is None or result.reached_ms is None:
        return ""
    return f"{1 - result.reached_ms / result.target_ms:.2%}"
