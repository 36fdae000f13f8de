"""Every searcher on every space: one recipe, one budget a space, the same images.

    python benchmarks/components.py --hours H -o FOLDER [--spaces A,B] [--searchers A,B]
    python benchmarks/components.py --hours H -o FOLDER --max-macs 27M --data cifar100 --classes 100

A cell is a space, a searcher and a seed, in a process of its own. The supernet that one-shot
searchers ask is a cell as well: it is trained once a space, strategy and seed, and each of them
gets a copy of its checkpoint; all others train their own, which is then part of their search. Every
one trains for ``--epochs`` on the same images in batches of the same size. The target is
``--fraction`` of the way from the fastest network of a space to its slowest, by the table
``<space>.sqlite`` in ``--tables``, which is profiled on ``--device`` where there is none. With
``--max-macs`` the budget is one of multiply-accumulates, and no table is needed. A ``--recipe`` is
used by the searchers whose kind it is.

Cells are run in turn, all of one seed before the next, until the time is up; the same command goes
on. Prints a row for each space and each searcher with 95 % intervals and the seeds done. The score
by the supernet compares searchers within a space; across spaces, train from scratch
(``--train-epochs``). Search time leaves out the shared supernet's training and counts all parts of
a cell that was interrupted. Memory is the process's peak. Pairs that do not fit are listed with the
reason that the searcher gives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
from cells import CONFIDENCE, Clock, Progress, TimeIsUp, heading, parser, results, run_cells, shown

from latbench.blocks import Network
from latbench.cost import network_cost
from latbench.errors import InvalidFileError, LatbenchError, UnknownNameError
from latbench.files import write_atomically
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from latbench.units import format_ms, parse_count
from nas.data import load_data
from nas.data.images import ImageData
from nas.latency.priced_space import PricedSpace, labelled_space
from nas.optimize.constraints import Count, Limit
from nas.recipes import Recipe, load_recipe
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.one_shot import OneShotRecipe, OneShotSearcher
from nas.spaces import SPACES, SearchSpace, make_space
from nas.tasks import task_of
from nas.training import from_scratch as scratch
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.strategies import STRATEGIES

SUPERNET = "supernet"
_CHECKPOINT = Path("checkpoint") / "supernet.pt"
_TIME_IS_UP = 75  # exit code of a cell that may go on (EX_TEMPFAIL)


def main() -> None:
    """Run cells while there is time, then print what is done; or be one of them."""
    os.environ.setdefault("COLUMNS", "160")  # of a pipe rich assumes 80
    options = _parse()
    if options.cell is not None:
        _be_cell(options)
        return
    RunFolder(options.output / "settings", _settings(options))
    clock = Clock(options.hours)
    refused = _prepared(options, clock)
    run_cells(
        options.output,
        [cell for cell in _cells(options) if _space_of(cell[0]) not in refused],
        lambda name, seed, run, tick: _apart(name, seed, clock),
        clock,
    )
    _print(options, refused)


def _parse() -> argparse.Namespace:
    asked = parser(__doc__, one_target=False)
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
    asked.add_argument("--cell", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    options = asked.parse_args()
    try:
        _ = [SPACES[name] for name in options.spaces]
        _ = [SEARCHERS[name] for name in options.searchers]
        _ = [STRATEGIES[name] for name in options.strategies]
        fitting = {name: _recipe(options, name) for name in options.searchers}
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


def _recipe(options: argparse.Namespace, searcher: str) -> tuple[str, Recipe] | None:
    """The first of the recipes given that is of the searcher's kind, with its name."""
    kind = SEARCHERS[searcher].recipe_kind
    for name in options.recipe:
        try:
            if kind is not None:
                return name, load_recipe(kind, name)
        except (InvalidFileError, UnknownNameError):
            continue
    return None


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells of a folder have in common."""
    keys = ("images", "epochs", "batch_size", "evaluations", "train_epochs", "fraction")
    more = ("data", "input_size", "classes", "max_macs", "recipe")
    return {key: getattr(options, key) for key in (*keys, *more)}


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


def _prepared(options: argparse.Namespace, clock: Clock) -> dict[str, str]:
    """Profile the tables that are missing; return the spaces that these images do not fit."""
    refused: dict[str, str] = {}
    for space in options.spaces:
        table = _table_file(options, space)
        if options.max_macs is not None or table.exists():
            continue
        if options.tables is not None:
            refused[space] = f"there is no {table}"
            continue
        part = table.with_suffix(".part.sqlite")
        part.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "cli", "profile", options.device, space, "-o", part),
            *("--input-size", options.input_size, "--classes", options.classes),
            *("--time-limit", options.profile_time),
        ]
        try:
            clock.check()
        except TimeIsUp:
            refused[space] = "the time was up before its table was profiled"
            continue
        done = subprocess.run([*map(str, command)], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            part.rename(table)
        else:
            refused[space] = done.stderr.strip().splitlines()[-1]
    return refused


def _table_file(options: argparse.Namespace, space: str) -> Path:
    folder: Path = options.tables or options.output / "tables"
    return folder / f"{space}.sqlite"


def _apart(name: str, seed: int, clock: Clock) -> dict[str, Any]:
    """A cell in a process of its own, by the same command.

    Raises:
        TimeIsUp: It has not ended; the next call goes on.
    """
    hours = ["--hours", str(clock.hours_left), "--cell", name, str(seed)]
    command = [sys.executable, *sys.argv, *hours]  # of an option given twice the last one counts
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == _TIME_IS_UP:
        raise TimeIsUp
    if done.returncode:
        sys.exit(f"{name}, seed {seed} failed: see above; what is done is kept")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _be_cell(options: argparse.Namespace) -> None:
    """Print a cell's result as JSON."""
    name, seed = options.cell[0], int(options.cell[1])
    run = options.output / "runs" / f"{name}-{seed}"
    try:
        found = _cell(options, name, seed, run, Clock(options.hours).check)
    except TimeIsUp:
        sys.exit(_TIME_IS_UP)
    print(json.dumps(found, allow_nan=False))


def _cell(
    options: argparse.Namespace, name: str, seed: int, run: Path, tick: Progress
) -> dict[str, Any]:
    """Train a shared supernet, or search with one or without.

    Raises:
        TimeIsUp: Between two steps.
    """
    space, what, *strategies = name.split("_")
    strategy = strategies[0] if strategies else None
    kind = "random" if what == SUPERNET else what
    given = _recipe(options, kind)
    recipe = given[1] if given else None
    if strategy is not None:
        one_shot = recipe if isinstance(recipe, OneShotRecipe) else OneShotRecipe()
        evaluations = options.evaluations or one_shot.evaluations
        recipe = msgspec.structs.replace(one_shot, strategy=strategy, evaluations=evaluations)
    searched = _searched(options, space)
    targets_ms = [_target_ms(options, searched)] if isinstance(searched, PricedSpace) else []
    data = _data(options)
    try:
        limits = _limits(options, searched)
        settings = SearchSettings(options.epochs, options.batch_size, seed, recipe, limits=limits)
        searcher = SEARCHERS[kind](searched, settings)
        searcher.check(data, targets_ms)
    except LatbenchError as error:
        return {"refused": error.message}
    label = {"cell": name, "seed": seed, "targets_ms": targets_ms}
    folder = RunFolder(run, _settings(options) | label)
    if what == SUPERNET:
        assert isinstance(searcher, OneShotSearcher)
        with _Stopwatch(run) as watch:
            searcher.train(data, folder, progress=tick)
        return {"seconds": watch.total_s, "peak_mib": _peak_mib()}
    if strategy is not None:
        _copy(run.parent / f"{space}_{SUPERNET}_{strategy}-{seed}" / _CHECKPOINT, run / _CHECKPOINT)
    with _Stopwatch(run) as watch:
        (found,) = searcher.search(data, targets_ms, folder, progress=tick)
    network = searcher.space.lower(found.architecture)
    result: dict[str, Any] = {
        "score": found.score,
        "macs_m": network_cost(network).macs / 1e6,
        "seconds": watch.total_s,
        "peak_mib": _peak_mib(),
    }
    if found.latency_ms is not None:
        result["latency_ms"] = found.latency_ms
    if options.train_epochs:
        result["metric"] = _trained(options, network, data, run, seed, tick)
    return result


def _copy(shared: Path, own: Path) -> None:
    """A whole copy or none, once."""
    if not own.exists():
        own.parent.mkdir(exist_ok=True)
        part = own.with_suffix(".part")
        shutil.copyfile(shared, part)
        part.rename(own)


def _trained(
    options: argparse.Namespace,
    network: Network,
    data: ImageData,
    run: Path,
    seed: int,
    tick: Progress,
) -> float:
    """The test metric of what was found, trained from scratch."""
    batch_size = options.batch_size or TrainingRecipe().batch_size
    recipe = TrainingRecipe(epochs=options.train_epochs, batch_size=batch_size, seed=seed)
    folder = RunFolder(run / "train", {"epochs": options.train_epochs})
    return scratch.train(network, data, recipe, folder, progress=tick)[task_of(data).metric]


def _searched(options: argparse.Namespace, space: str) -> PricedSpace | SearchSpace:
    """The space, seen through its table unless MACs are the budget."""
    if options.max_macs is not None:
        return make_space(space, options.input_size, options.classes)
    return _priced(options, space)


def _priced(options: argparse.Namespace, space: str) -> PricedSpace:
    table = LatencyTable.open(_table_file(options, space))
    return PricedSpace(labelled_space(table.space), table, efficient=True)


def _limits(options: argparse.Namespace, searched: PricedSpace | SearchSpace) -> tuple[Limit, ...]:
    if isinstance(searched, PricedSpace):
        return ()
    return (Limit(Count(searched, "macs"), options.max_macs),)


def _data(options: argparse.Namespace) -> ImageData:
    data = load_data(
        options.data,
        input_size=options.input_size,
        classes=options.classes,
        data_dir=options.data_dir,
    )
    return data.subset(options.images, seed=0)


def _target_ms(options: argparse.Namespace, priced: PricedSpace) -> float:
    low_ms, high_ms = priced.feasible_ms()
    return low_ms + float(options.fraction) * (high_ms - low_ms)


class _Stopwatch:
    """Seconds of a piece of work, with those of its earlier parts, kept in a file."""

    def __init__(self, run: Path) -> None:
        self.file = run / "seconds.json"
        self.total_s = json.loads(self.file.read_text()) if self.file.exists() else 0.0

    def __enter__(self) -> _Stopwatch:
        self._begin = monotonic()
        return self

    def __exit__(self, *raised: object) -> None:
        self.total_s += monotonic() - self._begin
        write_atomically(self.file, json.dumps(self.total_s, allow_nan=False) + "\n")


def _peak_mib() -> float:
    """Peak resident memory of this process; ``getrusage`` would begin at its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) / 1024


# Printing


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
        for part in _parts(options):
            cells = results(options.output, f"{space}_{part}")
            why |= {f"{space}, {part}": c["refused"] for c in cells.values() if "refused" in c}
            fitting = {seed: cell for seed, cell in cells.items() if "refused" not in cell}
            if fitting:
                columns = (_mean(fitting, key, form) for key, form in _COLUMNS.items())
                what, _, strategy = part.partition("_")
                rows.append((space, what, strategy, *columns, ", ".join(map(str, fitting))))
    print_table(
        (
            *("space", "searcher", "supernet by", "supernet's score", "from scratch"),
            *("predicted, ms", "MACs, M", "search, s", "peak MiB", "seeds"),
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
    "macs_m": ".4g",
    "seconds": ".0f",
    "peak_mib": ".0f",
}


def _print_spaces(spaces: list[str], options: argparse.Namespace) -> None:
    rows = []
    for name in spaces:
        priced = _priced(options, name)
        label, (low_ms, high_ms) = priced.table.space, priced.feasible_ms()
        rows.append(
            (
                name,
                f"{label.input_size} px",
                f"{float(priced.space.size()):.1e}",
                priced.table.device.name,
                f"{format_ms(low_ms)} to {format_ms(high_ms)}",
                format_ms(_target_ms(options, priced)),
            )
        )
    print_table(("space", "input", "architectures", "device", "reach", "target"), rows)
    print_lines([""])


def _mean(cells: dict[int, dict[str, Any]], key: str, form: str) -> str:
    return shown([cell[key] for cell in cells.values() if key in cell], form)


if __name__ == "__main__":
    main()
