"""Every searcher on every space: one recipe, one budget a space, the same images.

    python benchmarks/components.py --hours H -o FOLDER [--spaces A,B] [--searchers A,B]
    python benchmarks/components.py --hours H -o FOLDER --max-macs 27M --data cifar100 --classes 100
    python benchmarks/components.py --hours 0 -o FOLDER --measure

A cell is a space, a searcher and a seed, in a process of its own. The supernet that one-shot
searchers ask is a cell as well: it is trained once a space, strategy and seed, and each of them
gets a copy of its checkpoint; all others train their own, which is then part of their search. Every
one trains for ``--epochs`` on the same images in batches of the same size. The target is
``--fraction`` of the way from the fastest network of a space to its slowest, by the table
``<space>.sqlite`` in ``--tables``, which is profiled on ``--device`` where there is none.
``--layers`` shortens all spaces to so many layers a stage; with one there are no shortcuts. With
``--max-macs`` the budget is one of multiply-accumulates, and no table is needed. A ``--recipe`` is
used by the searchers whose kind it is.

Cells are run in turn, all of one seed before the next, until the time is up; the same command goes
on. Prints a row for each space and each searcher with 95 % intervals and the seeds done. The score
by the supernet compares searchers within a space; across spaces, train from scratch
(``--train-epochs``). Search time is that of the processor; it leaves out the shared supernet's
training and counts all parts of a cell that was interrupted, but no part that was killed. Memory is
the process's peak. With ``--measure`` the device measures what was found, in one sweep a space,
after the cells: nothing else should run then. Pairs that do not fit are listed with the reason that
the searcher gives.

Commands with different ``--spaces`` may fill a folder at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from cells import (
    CONFIDENCE,
    Clock,
    Progress,
    heading,
    layers_of_a_stage,
    parser,
    require_settings,
    results,
    run_cells,
    shown,
)
from component_cells import (
    SUPERNET,
    common_settings,
    priced_space,
    profile_missing_tables,
    recipe_for,
    run_cell,
    target_ms,
    unfit_spaces,
)
from quality_matching import measure_ms

from latbench.errors import LatbenchError
from latbench.files import write_atomically
from latbench.report.terminal import print_lines, print_table
from latbench.units import format_ms, parse_count
from nas.searchers import SEARCHERS
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.spaces import SPACES, Architecture
from nas.training.strategies import STRATEGIES

CellRunner = Callable[[str, int, Path, Progress], dict[str, Any]]
"""Runs a cell, given its name, seed, folder and a callback between steps."""


def main() -> None:
    """Run cells while there is time, then print what is done; or be one of them."""
    options = parse()
    compare(options, partial(run_cell, options), Clock.of(options), asked=options)


def compare(
    options: argparse.Namespace,
    run: CellRunner,
    clock: Clock,
    *,
    asked: argparse.Namespace | None = None,
) -> None:
    """Run cells while there is time, then print what is done.

    Args:
        options: Options of the command.
        run: Runs one cell and returns its result.
        clock: Ends the runs.
        asked: The options again, for a process a cell; None runs all cells in this process.
    """
    require_settings(options.output, common_settings(options))
    refused = unfit_spaces(options)
    fitting = [space for space in options.spaces if space not in refused]
    refused |= profile_missing_tables(options, fitting, clock)
    possible = [cell for cell in _cells(options) if _space_of(cell[0]) not in refused]
    run_cells(options.output, possible, run, clock, asked=asked)
    if options.only is not None:
        return
    if options.measure:
        for space in options.spaces:
            if space not in refused:
                _measure(options, space)
    _print(options, refused)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command; those of this process if no arguments are given."""
    asked = parser(__doc__, one_target=False, apart=True)
    asked.add_argument("--spaces", type=_names, default=list(SPACES), help="with commas between")
    asked.add_argument("--searchers", type=_names, default=list(SEARCHERS))
    asked.add_argument("--strategies", type=_names, default=["uniform"], help="of supernets")
    asked.add_argument("--seeds", type=int, default=3, help="at most")
    asked.add_argument("--data", default="fashion-mnist", help="data set of all searches")
    asked.add_argument("--data-dir", type=Path, help="where its files are")
    asked.add_argument("--input-size", type=int, default=32, help="pixels, as OSNASLib's spaces")
    asked.add_argument("--classes", type=int, default=10, help="of faces the size of embeddings")
    asked.add_argument("--max-macs", type=parse_count, help="instead of a latency: 27M")
    asked.add_argument("--images", type=int, default=10_000)
    asked.add_argument("--recipe", action="append", default=[], help="shipped one or TOML file")
    asked.add_argument("--layers", type=layers_of_a_stage, help="of a stage, at most; default all")
    asked.add_argument("--epochs", type=int, help="of every supernet; without a recipe 20")
    asked.add_argument("--batch-size", type=int, help="without a recipe 64")
    asked.add_argument(
        "--evaluations", type=int, help="of one-shot searchers; without a recipe 100"
    )
    asked.add_argument("--train-epochs", type=int, default=0, help="from scratch; 0 leaves it out")
    asked.add_argument("--fraction", type=float, default=0.35, help="of a space's latencies")
    asked.add_argument("--tables", type=Path, help="folder of tables; default: FOLDER/tables")
    asked.add_argument("--device", default="cpu-onnxruntime", help="to profile missing tables on")
    asked.add_argument("--profile-time", default="5min", help="limit of one space's profiling")
    asked.add_argument("--measure", action="store_true", help="measure what was found")
    options = asked.parse_args(arguments)
    if options.measure and options.max_macs is not None:
        asked.error("--measure needs the tables of a device: leave out --max-macs")
    try:
        _ = [SPACES[name] for name in options.spaces]
        _ = [SEARCHERS[name] for name in options.searchers]
        _ = [STRATEGIES[name] for name in options.strategies]
        fitting = {name: recipe_for(options, name) for name in options.searchers}
        for name in options.recipe:
            if all(recipe is None or recipe[0] != name for recipe in fitting.values()):
                asked.error(f"{name} is a recipe of none of these searchers")
    except LatbenchError as error:
        asked.error(error.message)
    if not options.recipe:
        options.epochs = options.epochs or 20
        options.batch_size = options.batch_size or 64
        options.evaluations = options.evaluations or 100
    return options


def _names(text: str) -> list[str]:
    return text.split(",")


# Cells


def _cells(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Names, such as ``spos_random_uniform`` or ``spos_gumbel``, and seeds, in order."""
    for seed in range(options.seeds):
        for space in options.spaces:
            for part in _parts(options):
                yield f"{space}_{part}", seed


def _parts(options: argparse.Namespace) -> list[str]:
    """What is done on a space: supernets, then searchers."""
    one_shot = [n for n in options.searchers if SEARCHERS[n].recipe_kind is OneShotRecipe]
    shared = [SUPERNET, *one_shot] if one_shot else []
    own = [name for name in options.searchers if name not in one_shot]
    return [f"{name}_{strategy}" for strategy in options.strategies for name in shared] + own


def _space_of(cell: str) -> str:
    return cell.partition("_")[0]


# Measuring and printing


def _measure(options: argparse.Namespace, space: str) -> None:
    """Measure what the cells of a space found, in one sweep, if some were not measured yet.

    Raises:
        SystemExit: Another process measures on the device, or the table is of another one.
    """
    files = sorted((options.output / "cells").glob(f"{space}_*.json"))
    cells = {file.stem: json.loads(file.read_text()) for file in files}
    found = {
        name: msgspec.convert(cell["architecture"], Architecture)
        for name, cell in cells.items()
        if "architecture" in cell
    }
    if found.keys() <= _measured_ms(options, space).keys():
        return
    priced = priced_space(options, space)
    networks = [priced.space.lower(architecture) for architecture in found.values()]
    try:
        latencies_ms = measure_ms(priced.table.path, networks)
    except LatbenchError as error:
        sys.exit(f"{error.message}; what is done is kept, and the same command goes on")
    record = _record(options, space)
    record.parent.mkdir(exist_ok=True)
    measured_ms = dict(zip(found, latencies_ms, strict=True))
    write_atomically(record, json.dumps(measured_ms, indent=2, allow_nan=False) + "\n")


def _measured_ms(options: argparse.Namespace, space: str) -> dict[str, float]:
    """Latencies in ms by the names of cells, as measured so far."""
    record = _record(options, space)
    measured_ms: dict[str, float] = json.loads(record.read_text()) if record.exists() else {}
    return measured_ms


def _record(options: argparse.Namespace, space: str) -> Path:
    folder: Path = options.output / "measured"
    return folder / f"{space}.json"


def _print(options: argparse.Namespace, refused: dict[str, str]) -> None:
    import torch

    print_lines(
        [
            *heading({"torch": torch.__version__}),
            f"{options.images} images of {options.data}; "
            + (
                f"recipes {', '.join(options.recipe)}"
                if options.recipe
                else f"all train for {options.epochs} epochs of batches of {options.batch_size}; "
                f"{options.evaluations} evaluations a one-shot search"
            ),
            "",
        ]
    )
    if options.max_macs is None:
        _print_spaces([space for space in options.spaces if space not in refused], options)
    rows, why = [], dict(refused)
    for space in options.spaces:
        measured_ms = _measured_ms(options, space)
        for part in _parts(options):
            cells = results(options.output, f"{space}_{part}")
            why |= {f"{space}, {part}": c["refused"] for c in cells.values() if "refused" in c}
            fitting = {seed: cell for seed, cell in cells.items() if "refused" not in cell}
            for seed, cell in fitting.items():
                name = f"{space}_{part}-{seed}"
                if name in measured_ms:
                    cell["measured_ms"] = measured_ms[name]
            if fitting:
                columns = (_mean(fitting, key, form) for key, form in _COLUMNS.items())
                what, _, strategy = part.partition("_")
                rows.append((space, what, strategy, *columns, ", ".join(map(str, fitting))))
    print_table(
        (
            *("space", "searcher", "supernet by", "supernet's score", "from scratch"),
            *("predicted, ms", "measured, ms", "MACs, M", "search, s", "peak MiB", "seeds"),
        ),
        rows,
    )
    print_lines(
        [
            f"{SUPERNET}: the training that the searchers below it share",
            f"intervals: {CONFIDENCE:.0%}, Student's t over seeds",
            *(f"left out: {name}: {reason}" for name, reason in why.items()),
        ]
    )


_COLUMNS = {
    "score": ".1%",
    "metric": ".1%",
    "latency_ms": ".4g",
    "measured_ms": ".4g",
    "macs_m": ".4g",
    "seconds": ".0f",
    "peak_mib": ".0f",
}


def _print_spaces(spaces: list[str], options: argparse.Namespace) -> None:
    rows = []
    for name in spaces:
        priced = priced_space(options, name)
        label, (low_ms, high_ms) = priced.table.space, priced.feasible_ms()
        rows.append(
            (
                name,
                f"{label.input_size} px",
                f"{float(priced.space.size()):.1e}",
                priced.table.device.name,
                f"{format_ms(low_ms)} to {format_ms(high_ms)}",
                format_ms(target_ms(options, priced)),
            )
        )
    print_table(("space", "input", "architectures", "device", "reach", "target"), rows)
    print_lines([""])


def _mean(cells: dict[int, dict[str, Any]], key: str, form: str) -> str:
    values = [cell[key] for cell in cells.values() if key in cell]
    if key == "score" and any(value < 0 for value in values):
        form = ".3f"  # of faces: minus the loss
    return shown(values, form)


if __name__ == "__main__":
    main()
