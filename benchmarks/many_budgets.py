"""Many budgets on several devices: one generator of SGNAS, or a search for each of them?

    python benchmarks/many_budgets.py --table TABLE --table TABLE --hours H -o FOLDER
        [--accuracies FILE] [--recipe sgnas-small --set KEY=VALUE ...] [--seeds 3]

The tables are of one space, each of another device here. A seed has one supernet, trained on a part
of Fashion-MNIST. On it a generator is trained, priors included, which answers ten budgets a device
in one batch; and evolution searches each budget of each device with so many evaluations. Its
searches on a device share their scores, as those of `latbench search` do. Both sides have the same
weights, and choose by the same selection images. Budgets are spread evenly over the trained range.

What each side found is compared by accuracy of the supernet on test images, which nobody has chosen
by; with FILE, the `nas-bench-macro_cifar10.json` of the space nasbench-macro, also by the published
accuracies, and by how far they are from the best of all networks within the budget. Time is that of
one processor. Supernets are trained first. Latencies are measured at the end, both sides in one
sweep a device. The same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from cells import (
    Clock,
    Progress,
    heading,
    latency_table,
    parser,
    published_accuracies,
    results,
    run_cells,
    shown,
)
from judge_cells import PUBLISHED, published_entry
from many_budgets_cells import GENERATOR, SIDES, SUPERNET, common_settings, run_cell
from quality_matching import measure_ms

from latbench.errors import LatbenchError
from latbench.files import write_atomically
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from latbench.units import format_ms
from nas.data import DATASETS
from nas.evaluators.tabular import TabularEvaluator
from nas.generator import device_of
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import latency_limits
from nas.optimize.encoding import EncodedSpace
from nas.optimize.enumeration import all_codes
from nas.recipes import load_recipe
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.spaces import Architecture
from nas.workflows.inputs import priced_by

_MOST_CODES = 10_000  # of a space whose best networks are known


def main() -> None:
    """Train, search, measure, print."""
    options = _parse()
    torch.set_num_threads(1)
    priced = _priced(options.table)

    def work(name: str, seed: int, run: Path, tick: Progress) -> dict[str, Any]:
        return run_cell(options, priced, name, seed, run, tick)

    clock, seeds = Clock.of(options), range(options.seeds)
    supernets = [(SUPERNET, seed) for seed in seeds]
    settings = common_settings(options) | {"devices": [*priced]}
    run_cells(options.output, supernets, work, clock, asked=options, settings=settings)
    trained = results(options.output, SUPERNET)
    cells = [(side, seed) for seed in trained for side in SIDES]
    run_cells(options.output, cells, work, clock, asked=options)
    if options.only is not None:
        return
    sides = {side: results(options.output, side) for side in SIDES}
    done = [seed for seed in seeds if all(seed in found for found in sides.values())]
    if not done:
        print_lines(["no seed has both sides yet: the same command goes on from here"])
        return
    _print(options, priced, {side: [sides[side][seed] for seed in done] for side in SIDES}, done)


def _parse() -> argparse.Namespace:
    asked = parser(__doc__, one_target=False, side_by_side=True)
    asked.add_argument("--table", type=latency_table, action="append", required=True)
    asked.add_argument("--accuracies", type=published_accuracies, help="file of NAS-Bench-Macro")
    asked.add_argument("--recipe", default="sgnas-small")
    asked.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    asked.add_argument("--data", default="fashion-mnist")
    asked.add_argument("--images", type=int, default=8_000)
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--budgets", type=int, default=10, help="a device")
    asked.add_argument("--evaluations", type=int, default=100, help="of a search")
    asked.add_argument("--unmeasured", action="store_true", help="do not measure latencies")
    options = asked.parse_args()
    try:
        spaces = {LatencyTable.open(path).space for path in options.table}
        load_recipe(SGNASRecipe, options.recipe, options.changes)
        _ = DATASETS[options.data]
    except LatbenchError as error:
        asked.error(error.message)
    if len(spaces) > 1:
        asked.error(f"tables of one space are compared, not of {' and '.join(map(str, spaces))}")
    if options.accuracies is not None and [each.name for each in spaces] != [PUBLISHED]:
        asked.error(f"--accuracies are those of the space {PUBLISHED}")
    if len(_priced(options.table)) < len(options.table):
        asked.error("two tables are of one device: give one table a device")
    return options


def _priced(tables: Sequence[Path]) -> dict[str, PricedSpace]:
    """The space with the prices of each device."""
    spaces = [priced_by(LatencyTable.open(path), "any") for path in tables]
    return {device_of(each.table): each for each in spaces}


# Measuring and printing

_FORMS = {"predicted": "+.1%", "measured": "+.1%", "supernet": ".1%", "published": ".2%"}
"""What is known of a network, and how it is printed; latencies are from the budget."""

Cells = Mapping[str, Sequence[Mapping[str, Any]]]
"""By side, the results of its cells, seed by seed."""


def _print(
    options: argparse.Namespace, priced: Mapping[str, PricedSpace], cells: Cells, seeds: list[int]
) -> None:
    """Times of both sides, and a table for each device, a row for each budget."""
    label = next(iter(priced.values())).table.space
    supernet = [results(options.output, SUPERNET)[seed]["seconds"] for seed in seeds]
    print_lines(
        [
            *heading({"torch": torch.__version__}),
            f"{label}, {options.images} images of {options.data}, {options.recipe} "
            f"{' '.join(options.changes)}, seeds {', '.join(map(str, seeds))}",
            f"seconds of a processor: the supernet of both sides {shown(supernet, '.0f')}",
            *(_about(side, cells[side], options.budgets * len(priced)) for side in SIDES),
        ]
    )
    published = options.accuracies
    for number, (device, space) in enumerate(priced.items()):
        known = _known(options, number, space, cells, seeds, published)
        header: list[str] = []
        rows: list[list[str]] = []
        for i in range(options.budgets):
            budget_ms = cells[GENERATOR][0]["found"][device][i]["budget_ms"]
            ours, theirs = ([found[i] for found in known[side]] for side in SIDES)
            row = {"budget": format_ms(budget_ms)}
            for name in ours[0]:
                pair = [np.mean([each[name] for each in side]) for side in (ours, theirs)]
                row[name] = ", ".join(f"{mean:{_FORMS[name]}}" for mean in pair)
            if published is not None:
                row["best of all"] = f"{_best(published, space, budget_ms):.2%}"
            row["generator ahead, points"] = _ahead(ours, theirs)
            header = [*row]
            rows.append([*row.values()])
        print_lines(["", f"{device}: in a column the generator, then evolution"])
        print_table(header, rows)
        print_lines([f"mean over budgets: {_summary(known)}"])


def _about(side: str, cells: Sequence[Mapping[str, Any]], searches: int) -> str:
    """Time and evaluations of one side, in words."""
    seconds = [cell["seconds"] for cell in cells]
    evaluated = np.mean([cell["evaluated"] for cell in cells])
    what = "priors and training" if side == GENERATOR else f"{searches} searches"
    return f"{side}: {what} {shown(seconds, '.0f')}, {evaluated:.0f} networks evaluated"


Known = Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
"""By side, seed and budget: the values of ``_FORMS``."""


def _known(
    options: argparse.Namespace,
    number: int,
    priced: PricedSpace,
    cells: Cells,
    seeds: list[int],
    published: TabularEvaluator | None,
) -> Known:
    """What is known of all networks of a device."""
    device = device_of(priced.table)
    found = {side: [cell["found"][device] for cell in cells[side]] for side in SIDES}
    made = dict.fromkeys(_architecture(r) for rows in found.values() for row in rows for r in row)
    measured_ms: dict[Architecture, float] = {}
    if not options.unmeasured:
        record = options.output / "measured" / f"{number}-{'-'.join(map(str, seeds))}.json"
        measured_ms = _measured(record, priced, [*made])

    every = EncodedSpace(latency_limits([priced], 1e15))

    def values(row: Mapping[str, Any]) -> dict[str, float]:
        architecture, budget_ms = _architecture(row), row["budget_ms"]
        known = {"predicted": row["predicted_ms"] / budget_ms - 1}
        if measured_ms:
            known["measured"] = measured_ms[architecture] / budget_ms - 1
        known["supernet"] = row["supernet_top1"]
        if published is not None:
            canonical = every.decode(every.encode(architecture))  # of equal networks the same
            known["published"] = _accuracy(published, canonical)
        return known

    return {side: [[values(row) for row in rows] for rows in found[side]] for side in SIDES}


def _measured(
    record: Path, priced: PricedSpace, made: Sequence[Architecture]
) -> dict[Architecture, float]:
    """Latencies in ms, all measured in one sweep; once."""
    if not record.exists():
        found_ms = measure_ms(priced.table.path, [priced.space.lower(each) for each in made])
        record.parent.mkdir(exist_ok=True)
        write_atomically(record, json.dumps(found_ms, allow_nan=False) + "\n")
    return dict(zip(made, json.loads(record.read_text()), strict=True))


def _architecture(row: Mapping[str, Any]) -> Architecture:
    return msgspec.convert(row["architecture"], Architecture)


def _accuracy(published: TabularEvaluator, architecture: Architecture) -> float:
    return published_entry(published, architecture).mean_acc / 100


def _best(published: TabularEvaluator, priced: PricedSpace, budget_ms: float) -> float:
    """The highest published accuracy of all different networks within a budget, a fraction."""
    encoded = EncodedSpace(latency_limits([priced], budget_ms))
    codes = all_codes(encoded, _MOST_CODES)
    assert codes is not None
    return max(_accuracy(published, encoded.decode(tuple(code))) for code in codes.tolist())


def _ahead(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> str:
    """How far the first are more accurate, paired by seed: by the supernet, and as published."""
    names = [name for name in ("supernet", "published") if name in ours[0]]
    leads = [[100 * (a[n] - b[n]) for a, b in zip(ours, theirs, strict=True)] for n in names]
    return ", ".join(shown(lead, "+.2f") for lead in leads)


def _summary(known: Known) -> str:
    """Means over the budgets of a seed, with intervals over seeds."""
    sides = [
        [{name: float(np.mean([row[name] for row in rows])) for name in rows[0]} for rows in seeds]
        for seeds in known.values()
    ]
    parts = [
        f"{name} {shown([seed[name] for seed in seeds], _FORMS[name])}"
        for name in sides[0][0]
        for seeds in sides
    ]
    return f"{', '.join(parts)}; generator ahead by {_ahead(*sides)} points"


if __name__ == "__main__":
    main()
