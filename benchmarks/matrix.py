"""Which space goes with which searcher, strategy and task: every cell is tried, or refused.

    python benchmarks/matrix.py [-o FILE] [--spaces A,B] [--searchers A,B] [--tasks A,B]

A cell is a space, a searcher, a strategy that trains the supernet, and a task. A cell works if a
search of one training step ends with an architecture within its budget; it is refused if the
searcher says why it cannot be, before anything is written. Anything else is a fault and ends the
command with exit code 1. Spaces are cut to their first two layers, so that a step takes
milliseconds: these have the operations, widths and depths of the whole. Prices are MACs: nothing is
measured here.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from latbench.blocks import Classifier, output_shape
from latbench.cost import block_cost
from latbench.device_files import load_device
from latbench.environment import current_environment
from latbench.errors import LatbenchError, UnknownNameError
from latbench.files import write_atomically
from latbench.progress import Progress
from latbench.report.terminal import progress_bar
from latbench.tables import Estimate, LatencyTable, StoredFit, TableStore
from latbench.tables.alignment import Alignment, WidthClass
from latbench.tables.price_model import PriceModel
from nas.data.images import ImageData, Pairs, Split
from nas.latency.priced_space import PricedSpace, space_label
from nas.recipes import Recipe
from nas.searchers import SEARCHERS, SearchSettings
from nas.spaces import SPACES, SearchSpace, make_space
from nas.tasks import TASKS
from nas.training.run_folder import RunFolder
from nas.training.strategies import STRATEGIES

OWN = "its own"
"""The strategy of a searcher that is given none."""

_SIZE, _CLASSES, _LAYERS = 16, 10, 2
_IMAGES, _BATCH = 32, 16  # one step; half is held out, in parts of 8 images
_SHARE = 0.6  # of the way from the fastest network to the slowest, where the budget is

# what makes a search short, by the fields of recipes
_SHORT: dict[str, Any] = {
    "held_out": 0.5,
    "evaluations": 2,
    "initial_population": 1,
    "budgets": 3,
    "priors": 1,
    "prior_candidates": 2,
    "selected_on": 1,
    "calibration_batches": 1,
    "generator_epochs": 1,
}


@dataclass(frozen=True)
class Cell:
    """One combination, and how it went.

    Attributes:
        refused: Why it cannot be; None where it works.
    """

    space: str
    searcher: str
    strategy: str
    task: str
    refused: str | None = None


def combinations(
    spaces: Sequence[str], searchers: Sequence[str], tasks: Sequence[str]
) -> list[Cell]:
    """All cells; a searcher whose recipe knows no strategy has its own alone."""
    return [
        Cell(space, searcher, strategy, task)
        for task in tasks
        for space in spaces
        for searcher in searchers
        for strategy in (OWN, *(STRATEGIES if _takes_strategies(searcher) else ()))
    ]


def priced_space(name: str, path: Path) -> PricedSpace:
    """A shortened space with a table of its MACs."""
    space = shortened(make_space(name, _SIZE, _CLASSES))
    return PricedSpace(space, _table(space, path))


def tried(cell: Cell, priced: PricedSpace, folder: Path) -> Cell:
    """The cell, after a search of one step or a refusal.

    Args:
        cell: What is tried.
        priced: The cell's space.
        folder: Folder of the run; it must not exist.

    Raises:
        AssertionError: The search ended above its budget.
    """
    data = _images(cell.task)
    low, high = priced.feasible_ms()
    target_ms = low + _SHARE * (high - low)
    try:
        searcher = SEARCHERS[cell.searcher](priced, SearchSettings(1, _BATCH, 0, _recipe(cell)))
        searcher.check(data, [target_ms])
    except LatbenchError as error:
        return replace(cell, refused=error.message)
    (found,) = searcher.search(data, [target_ms], RunFolder(folder, {}))
    assert found.latency_ms is not None and found.latency_ms <= target_ms, cell
    return cell


def shortened(space: SearchSpace) -> SearchSpace:
    """The first layers of a space, whole stages as far as they go, and a classifier."""
    stages, left = [], _LAYERS
    for layers in space.stages:
        if left:
            stages.append(layers[:left])
            left -= len(stages[-1])
    block = next(
        made
        for layer in reversed(stages[-1])
        for choice in layer.choices(layer.ops[0], lambda layer, op: layer.widths(op)[-1:])
        if (made := layer.block(choice)) is not None
    )
    channels, size, _ = output_shape(block)
    head = (Classifier(channels, space.classes, size),)
    return replace(space, stages=tuple(stages), head=head)


def _takes_strategies(searcher: str) -> bool:
    kind = SEARCHERS[searcher].recipe_kind
    return kind is not None and "strategy" in kind.__struct_fields__


def _recipe(cell: Cell) -> Recipe | None:
    kind = SEARCHERS[cell.searcher].recipe_kind
    if kind is None:
        return None
    values = {key: value for key, value in _SHORT.items() if key in kind.__struct_fields__}
    if cell.strategy != OWN:
        values["strategy"] = cell.strategy
    return kind(**values)


def _table(space: SearchSpace, path: Path) -> LatencyTable:
    """A table of the space in which a million MACs are a millisecond."""
    with TableStore.create(
        path,
        device=load_device("cpu-onnxruntime"),
        space=space_label(space),
        environment=current_environment({}),
    ) as store:
        store.add_blocks(space.blocks())
        store.record_alignment(Alignment((WidthClass(8, 8), WidthClass(1, 1))))
        prices = {id_: block_cost(spec).macs / 1e6 for id_, spec in store.blocks().items()}
        store.set_results(
            {id_: Estimate(p, p, p, p, p, p, 20, noisy=False) for id_, p in prices.items()},
            StoredFit(PriceModel(0.0, 1.0, 0.0, 0.01), floor=0.01, noisy=False),
        )
    return LatencyTable.open(path)


def _images(task: str) -> ImageData:
    """Noise: one step learns nothing anyway."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (_IMAGES, 3, _SIZE, _SIZE), generator=rng, dtype=torch.uint8)
    split = Split(pixels, torch.arange(_IMAGES) % _CLASSES)
    first, second = torch.arange(0, 8), torch.arange(10, 18)
    pairs = Pairs(split, first, second, first % 2 == 0, first % 2)
    return ImageData("noise", _CLASSES, split, split, 0.5, 0.3, flip=True, task=task, pairs=pairs)


def main() -> None:
    """Try all cells and print the tables."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    asked.add_argument("-o", "--output", type=Path, help="Markdown file instead of the screen")
    for option, known in (("spaces", SPACES), ("searchers", SEARCHERS), ("tasks", TASKS)):
        asked.add_argument(f"--{option}", type=_names(known), default=list(known))
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder, progress_bar("trying") as progress:
        cells = _tried(
            combinations(options.spaces, options.searchers, options.tasks), Path(folder), progress
        )
    text = "\n".join(_lines(cells, options.spaces, options.tasks)) + "\n"
    if options.output is None:
        print(text)
    else:
        write_atomically(options.output, text)


def _tried(cells: Sequence[Cell], folder: Path, progress: Progress) -> list[Cell]:
    done: list[Cell] = []
    priced: dict[str, PricedSpace] = {}
    for number, cell in enumerate(cells):
        progress(number / len(cells), f"{cell.space}, {cell.searcher}, {cell.strategy}")
        if cell.space not in priced:
            priced[cell.space] = priced_space(cell.space, folder / f"{cell.space}.sqlite")
        try:
            done.append(tried(cell, priced[cell.space], folder / str(number)))
        except Exception as error:
            sys.exit(f"{cell}: {type(error).__name__}: {error}")
        shutil.rmtree(folder / str(number), ignore_errors=True)
    return done


def _names(known: Any) -> Any:
    def parse(text: str) -> list[str]:
        try:
            _ = [known[name] for name in text.split(",")]
        except UnknownNameError as error:
            raise argparse.ArgumentTypeError(error.message) from error
        return text.split(",")

    return parse


def _lines(cells: Sequence[Cell], spaces: Sequence[str], tasks: Sequence[str]) -> Iterator[str]:
    """A Markdown table a task, then the reasons."""
    reasons: dict[str, int] = {}
    by_key = {(c.task, c.space, c.searcher, c.strategy): c for c in cells}
    yield "# What goes with what"
    yield ""
    yield "Made by `python benchmarks/matrix.py -o docs/matrix.md`. A cell says `works` where a"
    yield "search of one training step ends within its budget, on the first two layers of the space"
    yield "and with a latency table; a number is the reason why the searcher refuses, before it"
    yield "writes anything. A strategy says which paths train the supernet (`--set strategy=NAME`)."
    for task in tasks:
        yield from ("", f"## {task.replace('-', ' ').capitalize()}", "")
        yield f"| searcher | strategy | {' | '.join(spaces)} |"
        yield "| --- " * (len(spaces) + 2) + "|"
        rows = dict.fromkeys((c.searcher, c.strategy) for c in cells if c.task == task)
        for searcher, strategy in rows:
            marks = []
            for space in spaces:
                refused = by_key[task, space, searcher, strategy].refused
                if refused is None:
                    marks.append("works")
                else:
                    marks.append(f"[{reasons.setdefault(refused, len(reasons) + 1)}]")
            yield f"| {searcher} | {strategy} | {' | '.join(marks)} |"
    yield from ("", "## Reasons", "")
    for reason, number in reasons.items():
        yield f"{number}. {reason}"


if __name__ == "__main__":
    main()
