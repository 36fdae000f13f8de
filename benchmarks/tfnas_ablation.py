"""The variants that TF-NAS compares, each searched and trained on a part of Fashion-MNIST.

    python benchmarks/tfnas_ablation.py TABLE --target 1.5ms --hours H -o FOLDER [--workers N]

TABLE is one of the TF-NAS space for 10 classes. A cell is a variant and a seed: a search, and the
architecture under the budget trained from scratch. Cells are run in turn, all variants of one seed
before the next, until the time is up; the same command goes on. Prints a row a variant with 95 %
intervals and the seeds done, how far each variant is ahead of the published search on the same
seeds, and draws into FOLDER by epoch: latency around the target, entropy of alphas, how much
operations collapse, and depth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import altair as alt
import msgspec
import numpy as np
import vl_convert
from cells import (
    CONFIDENCE,
    Clock,
    Progress,
    chosen,
    heading,
    layers_of_a_stage,
    parser,
    results,
    run_cells,
    shortened,
    shown,
)

from latbench.errors import LatbenchError
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from latbench.units import parse_latency_ms
from nas.data import load_data
from nas.data.images import ImageData
from nas.latency.priced_space import PricedSpace, labelled_space
from nas.recipes import load_recipe
from nas.searchers import SearchSettings
from nas.searchers.tfnas.searcher import TFNASRecipe, TFNASSearcher
from nas.training import from_scratch as scratch
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.workflows.search import latencies_digest

PUBLISHED = "published"
# by name: the table of the paper that compares it, and what differs from the published search
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    PUBLISHED: ("all", {}),
    "second path: none": ("Table 3", {"second_path": "none"}),
    "second path: gumbel": ("Table 3", {"second_path": "gumbel"}),
    "second path: min alpha": ("Table 3", {"second_path": "min-alpha"}),
    "second path: max alpha": ("Table 3", {"second_path": "max-alpha"}),
    "depth: skip among": ("Table 4", {"depth": "skip-among"}),
    "depth: skip beside": ("Table 4", {"depth": "skip-beside"}),
    "objective: C1": ("Table 5", {"latency_objective": "c1"}),
    "objective: C2": ("Table 5", {"latency_objective": "c2"}),
    "objective: Eq. 9": ("Table 5", {"latency_objective": "eq9"}),
    "Eq. 9, no elasticity": ("Table 5", {"latency_objective": "eq9", "elasticity": False}),
    "no elasticity": ("Table 5", {"elasticity": False}),
    "no squeeze-excite": ("Table 2", {"squeeze_excite": False}),
    "independent start": ("", {"alike": 0.0}),
}
_RECIPE = ("batch_size", "lr", "alpha_lr", "alike")  # options that are settings of the recipe
_SETTINGS = ("target", "layers", "images", "epochs", "train_epochs", *_RECIPE)
_LAST = 5  # epochs of the end over which the way around the target is averaged


def main() -> None:
    """Run cells while there is time, then print and draw what is done."""
    options = _parse()
    folder: Path = options.output
    table = LatencyTable.open(options.table)
    whole = labelled_space(table.space)
    priced = PricedSpace(shortened(whole, options.layers), table, efficient=True)
    target_ms = parse_latency_ms(options.target)
    data = load_data(
        "fashion-mnist", input_size=table.space.input_size, classes=table.space.classes
    ).subset(options.images, seed=0)

    def work(name: str, seed: int, run: Path, tick: Progress) -> dict[str, Any]:
        return _cell(options, priced, data, target_ms, name, seed, run, tick)

    order = [(name, seed) for seed in range(options.seeds) for name in VARIANTS]
    cells = [(_slug(name), seed) for name, seed in order]
    settings = chosen(options, *_SETTINGS) | {"latencies": latencies_digest(table)}
    run_cells(folder, cells, work, Clock.of(options), keep=False, asked=options, settings=settings)
    if options.only is not None:
        return
    _print(options, table, target_ms, folder)
    _draw(folder, target_ms)


def _parse() -> argparse.Namespace:
    asked = parser(__doc__, side_by_side=True)
    asked.add_argument("--seeds", type=int, default=5, help="at most")
    asked.add_argument("--layers", type=layers_of_a_stage, help="of a stage, at most; default all")
    asked.add_argument("--images", type=int, default=6_000)
    asked.add_argument("--epochs", type=int, default=18, help="of a search")
    asked.add_argument("--train-epochs", type=int, default=10)
    asked.add_argument(
        "--batch-size", type=int, default=TFNASRecipe().batch_size, help="of a search"
    )
    asked.add_argument("--lr", type=float, default=TFNASRecipe().lr, help="of weights in a search")
    asked.add_argument(
        "--alpha-lr",
        type=float,
        default=TFNASRecipe().alpha_lr,
        help="of alphas and betas; a short search moves them little at the published rate",
    )
    asked.add_argument(
        "--alike",
        type=float,
        default=TFNASRecipe().alike,
        help="correlation of the initial weights of a layer's operations",
    )
    options = asked.parse_args()
    try:
        _usual(options)
    except LatbenchError as error:
        asked.error(error.message)
    return options


def _usual(options: argparse.Namespace) -> TFNASRecipe:
    """The recipe of the command, which variants change."""
    return load_recipe(TFNASRecipe, None, **chosen(options, *_RECIPE))


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def _cell(
    options: argparse.Namespace,
    priced: PricedSpace,
    data: ImageData,
    target_ms: float,
    slug: str,
    seed: int,
    run: Path,
    tick: Progress,
) -> dict[str, Any]:
    changes = next(changes for name, (_, changes) in VARIANTS.items() if _slug(name) == slug)
    label = {"variant": slug, "seed": seed, "target_ms": target_ms}
    config = chosen(options, *_SETTINGS) | label
    recipe = msgspec.structs.replace(_usual(options), **changes)
    settings = SearchSettings(epochs=options.epochs, seed=seed, recipe=recipe)
    searcher = TFNASSearcher(priced, settings)
    folder = RunFolder(run / "search", config)
    (found,) = searcher.search(data, [target_ms], folder, progress=tick)
    assert found.argmax is not None
    score = scratch.train(
        priced.space.lower(found.architecture),
        data,
        TrainingRecipe(epochs=options.train_epochs, seed=seed),
        RunFolder(run / "train", config),
        progress=tick,
    )
    epochs = _epochs(run)
    return {
        "top1": score["top1"],
        "latency_ms": found.latency_ms,
        "argmax_ms": found.argmax.latency_ms,
        "layers": len(found.architecture.choices),
        "supernet_score": found.score,
        "around": float(np.mean([abs(e["argmax_ms"] / target_ms - 1) for e in epochs[-_LAST:]])),
        "largest_share": epochs[-1]["largest_share"],
        "alpha_entropy": epochs[-1]["alpha_entropy"],
        "epochs": epochs,
    }


def _epochs(run: Path) -> list[dict[str, Any]]:
    """What is drawn of the search's epochs after warm-up; of a repeated epoch the last."""
    lines = (run / "search" / "metrics.jsonl").read_text().splitlines()
    rows = {row["epoch"]: row for row in map(json.loads, lines) if "argmax_ms" in row}
    kept = ("epoch", "argmax_ms", "layers", "alpha_entropy")
    return [
        {key: row[key] for key in kept} | {"largest_share": _largest_share(row)}
        for _, row in sorted(rows.items())
    ]


def _largest_share(epoch: dict[str, Any]) -> float:
    """Share of the derived layers that have the commonest operation."""
    counts = [count for key, count in epoch.items() if key.startswith("layers_of_")]
    return float(max(counts) / epoch["layers"])


def _print(
    options: argparse.Namespace, table: LatencyTable, target_ms: float, folder: Path
) -> None:
    print_lines(
        [
            *heading(table.environment.versions),
            f"{table.space}, target {target_ms:.4g} ms, {options.images} images of Fashion-MNIST, "
            f"search of {options.epochs} epochs in batches of {options.batch_size}, learning rates "
            f"{options.lr:g} of weights and {options.alpha_lr:g} of alphas, operations alike "
            f"{options.alike:g} at the start, training of {options.train_epochs} epochs",
            "",
        ]
    )
    rows = []
    published = results(folder, _slug(PUBLISHED))
    for name, (where, _) in VARIANTS.items():
        cells = results(folder, _slug(name))
        column = {key: [cell[key] for cell in cells.values()] for key in _COLUMNS}
        shown_columns = [shown(column[key], form) for key, form in _COLUMNS.items()]
        pairs = [(cells[seed], published[seed]) for seed in cells.keys() & published.keys()]
        differences = [] if name == PUBLISHED else pairs
        shown_columns += [
            shown([ours[key] - theirs[key] for ours, theirs in differences], form)
            for key, form in _AHEAD.items()
        ]
        rows.append((name, where, ", ".join(map(str, cells)), *shown_columns))
    columns = ("top-1", "supernet", "off target", "layers", "largest op", "entropy")
    print_table(("variant", "paper", "seeds", *columns, "top-1 ahead", "off target more"), rows)
    print_lines(
        [
            "",
            "top-1: of the network under the budget, trained from scratch",
            "supernet: its accuracy with the supernet's weights; near chance, nothing was learned",
            f"off target: |argmax / target - 1| before scaling, mean of the last {_LAST} epochs",
            f"ahead, more: than {PUBLISHED} with the same seeds, in points",
            "largest op: share of the derived layers that have the commonest operation",
            "entropy: of a layer's alphas in the last epoch, in nats; log 8 is 2.08",
            f"intervals: {CONFIDENCE:.0%}, Student's t over seeds",
        ]
    )


_COLUMNS = {
    "top1": ".1%",
    "supernet_score": ".1%",
    "around": ".1%",
    "layers": ".1f",
    "largest_share": ".0%",
    "alpha_entropy": ".2f",
}
_AHEAD = {"top1": "+.1%", "around": "+.1%"}


def _draw(folder: Path, target_ms: float) -> None:
    """Four pictures, a panel a variant, a line a seed."""
    done = {name: seeds for name in VARIANTS if (seeds := results(folder, _slug(name)))}
    if not done:
        return
    for picture, label, value in (
        ("latency", "argmax / target - 1", lambda e: e["argmax_ms"] / target_ms - 1),
        ("entropy", "entropy of alphas, nats", lambda e: e["alpha_entropy"]),
        ("operations", "largest share of an operation", lambda e: e["largest_share"]),
        ("depth", "layers kept", lambda e: e["layers"]),
    ):
        rows = [
            {"variant": name, "seed": str(seed), "epoch": e["epoch"], "value": value(e)}
            for name, seeds in done.items()
            for seed, cell in seeds.items()
            for e in cell["epochs"]
        ]
        panels = _panels(rows, list(done), label, zero=picture == "latency")
        drawn = vl_convert.vegalite_to_png(panels.to_dict(), scale=2)
        (folder / f"{picture}.png").write_bytes(drawn)
    print_lines([f"pictures: {folder}/latency.png, entropy.png, operations.png, depth.png"])


def _panels(
    rows: list[dict[str, Any]], variants: list[str], label: str, *, zero: bool
) -> alt.FacetChart:
    """Lines over epochs, a panel a variant; ``zero`` draws a line at 0."""
    lines = (
        alt.Chart()
        .mark_line()
        .encode(
            x=alt.X("epoch:Q").title("epoch"),
            y=alt.Y("value:Q").title(label).scale(zero=False),
            color=alt.Color("seed:N"),
        )
    )
    layers = [lines, *([alt.Chart().mark_rule().encode(y=alt.datum(0.0))] if zero else [])]
    panel = alt.layer(*layers, data=alt.InlineData(values=rows)).properties(width=240, height=160)
    return panel.facet(alt.Facet("variant:N").title(None).sort(variants), columns=4)


if __name__ == "__main__":
    main()
