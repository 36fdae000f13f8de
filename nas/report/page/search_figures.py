"""Figures of a search: budgets, networks, training, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latbench.cost import block_cost
from latbench.report.page.charts import heat_chart, line_chart
from latbench.report.page.document import Figure, Grid
from latbench.report.page.latency_charts import budget_chart
from latbench.report.page.network_figure import DrawnBlock, network_figure
from latbench.report.page.wording import ms, percent
from latbench.tables import LatencyTable
from latbench.tables.network_parts import network_parts
from latbench.units import format_ms
from nas.report.page.run_contents import Kind, RunContents
from nas.spaces import Architecture, Choice, SearchSpace, space_of
from nas.training.choice_probabilities import ChoiceProbabilities

_WORK: dict[Kind, str] = {"search": "search", "train": "training", "prune": "fine-tuning"}
_NUMBERED = "Block 2.1 is the first one of stage 2."
_MOST_POINTS = 60  # epochs of a line
_MOST_EPOCHS = 30  # columns of a chart of cells, as many as a screen can show


@dataclass(frozen=True)
class Latency:
    """A latency with the ends of its interval, if it has one.

    Attributes:
        kind: ``predicted`` or ``measured``.
    """

    kind: str
    latency_ms: float
    low_ms: float | None = None
    high_ms: float | None = None


def budget_figure(budgets: Mapping[float, Sequence[Latency]]) -> Figure | None:
    """Latencies relative to their budgets; None without a measurement or an interval.

    Args:
        budgets: For each budget in ms, the latencies of its network.
    """
    rows, cells = [], []
    for target_ms, latencies in budgets.items():
        for each in latencies:
            ends = (each.low_ms, each.high_ms)
            low, high = (None if end is None else end / target_ms for end in ends)
            share = each.latency_ms / target_ms
            name = format_ms(target_ms)
            rows.append(
                {
                    "name": name,
                    "kind": each.kind,
                    "latency": ms(each.latency_ms),
                    "share": share,
                    "low": low,
                    "high": high,
                }
            )
            shown = (ms(each.latency_ms), *map(ms, ends), percent(share, 2))
            cells.append((name, each.kind, *shown))
    if all(row["kind"] == "predicted" and row["low"] is None for row in rows):
        return None
    return Figure(
        "Latencies and budgets",
        "The upright line is the budget. Bars are intervals: of 90 % for predictions, of 95 % for "
        "measurements.",
        budget_chart(rows),
        Grid(("budget", "latency", "ms", "low", "high", "of the budget"), tuple(cells), labels=2),
        wide=True,
    )


def architecture_figure(
    architecture: Architecture, table: LatencyTable | None, *, title: str
) -> Figure:
    """A network, stage by stage: shares of its latency, or of its MACs without a table."""
    space = space_of(architecture)
    places = _places(space, architecture)
    network = space.lower(architecture)
    if table is not None and all(spec in table for spec in network):
        blocks = [
            DrawnBlock(
                *(places[i] if part.block else ("network", "once a network")),
                str(part.block or ""),
                part.latency_ms,
                part.low_ms,
                part.high_ms,
                part.source,
                part.block is not None and places[i][0].startswith("stage"),
            )
            for i, part in enumerate(network_parts(table, network))
        ]
        caption = f"Predicted latency of each block, and its share of the whole. {_NUMBERED}"
        return network_figure(title, caption, blocks, unit="ms")
    blocks = [
        DrawnBlock(
            *place,
            str(spec),
            block_cost(spec).macs / 1e6,
            chosen=place[0].startswith("stage"),
        )
        for place, spec in zip(places, network, strict=True)
    ]
    caption = f"Multiply-accumulates of each block, and their share of the whole. {_NUMBERED} "
    caption += "With a latency table the report shows latencies: latbench report RUN TABLE."
    return network_figure(title, caption, blocks, unit="million MACs")


def _places(space: SearchSpace, architecture: Architecture) -> list[tuple[str, str]]:
    """Stage and choice of every block of a network, in the order of execution."""
    places = [("stem", "stem") for _ in space.stem]
    for number, (choices, layers) in enumerate(
        zip(architecture.stages, space.stages, strict=True), start=1
    ):
        for place, (choice, layer) in enumerate(zip(choices, layers, strict=False), start=1):
            if layer.block(choice) is not None:
                places.append((f"stage {number}", f"{number}.{place}  {_choice(choice)}"))
    return places + [("head", "head") for _ in space.head]


def _choice(choice: Choice) -> str:
    kernels = " ".join(map(str, choice.kernels or ()))
    width = "" if choice.width is None else str(choice.width)
    return " ".join(filter(None, (choice.op, kernels, width)))


def curve_figures(run: RunContents) -> list[Figure]:
    """Loss of every phase, and the latencies that a differentiable search went through."""
    figures = []
    losses = run.series("loss")
    if losses:
        caption = "Mean training loss of each epoch."
        title = f"Loss of the {_WORK[run.kind]}"
        figures.append(_lines_figure(title, caption, losses, y="loss"))
    for found in run.found:
        trained = {epoch for epoch, _ in losses.get(found.phase, ())}
        values = {
            words: [
                (epoch, value)
                for epoch, value in run.series(name).get(found.phase, ())
                if epoch in trained
            ]
            for name, words in _LATENCIES.items()
        }
        shown = {words: points for words, points in values.items() if len(points) > 1}
        if shown:
            title = f"Latency in the search for {found.phase}"
            caption = (
                "Expected latency of all choices weighted by their probabilities, latency of the "
                "most probable network, and the same with its widths scaled to the budget."
            )
            figures.append(
                _lines_figure(title, caption, shown, y="latency, ms", limit=found.target_ms)
            )
    return figures


_LATENCIES = {
    "expected_ms": "expected",
    "argmax_ms": "most probable",
    "derived_ms": "scaled to the budget",
}


def _lines_figure(
    title: str,
    caption: str,
    series: Mapping[str, Sequence[tuple[int, float]]],
    *,
    y: str,
    limit: float | None = None,
) -> Figure:
    rows = [
        {"at": epoch, "value": value, "series": name}
        for name, points in series.items()
        for epoch, value in _thinned(points)
    ]
    cells = tuple((str(row["series"]), str(row["at"]), f"{row['value']:.5g}") for row in rows)
    chart = line_chart(rows, x="epoch", y=y, limit=limit)
    return Figure(title, caption, chart, Grid(("", "epoch", y), cells))


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """At most so many epochs of a line; the last one stays."""
    step = -(-len(points) // _MOST_POINTS)
    return points[(len(points) - 1) % step :: step] if points else points


def probability_figures(run: RunContents, phase: str) -> list[Figure]:
    """Probabilities of operations and depths over the epochs of one phase; at last by layer."""
    epochs = [each for each in run.probabilities if each.phase == phase]
    figures = []
    if len(epochs) > 1:
        shown = epochs[:: -(-len(epochs) // _MOST_EPOCHS)]
        ops = {each.epoch + 1: _mean_by_op(each) for each in shown}
        caption = "Mean over the layers, epoch by epoch."
        title = f"Operations in the search for {phase}"
        figures.append(_heat_figure(title, caption, ops, x="epoch"))
        depths = {each.epoch + 1: _depths(each) for each in shown}
        if any(depths.values()):
            caption = "Probability of each number of layers of a stage, epoch by epoch."
            title = f"Depths in the search for {phase}"
            figures.append(_heat_figure(title, caption, depths, x="epoch"))
    if epochs:
        last = {
            f"{stage}.{layer}": row
            for stage, layers in enumerate(epochs[-1].ops, start=1)
            for layer, row in enumerate(layers, start=1)
        }
        title = f"Operations by layer at the end for {phase}"
        caption = "After the last epoch; 2.1 is the first layer of stage 2."
        figures.append(_heat_figure(title, caption, last, x="layer", wide=True))
    return figures


def _mean_by_op(epoch: ChoiceProbabilities) -> dict[str, float]:
    rows = [row for layers in epoch.ops for row in layers]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}


def _depths(epoch: ChoiceProbabilities) -> dict[str, float]:
    """Probabilities of the depths of all stages that have a choice."""
    return {
        f"stage {stage}, {depth} layer{'s' if depth != '1' else ''}": probability
        for stage, row in enumerate(epoch.depths, start=1)
        for depth, probability in row.items()
        if len(row) > 1
    }


def _heat_figure(
    title: str,
    caption: str,
    columns: Mapping[int, Mapping[str, float]] | Mapping[str, Mapping[str, float]],
    *,
    x: str,
    wide: bool = False,
) -> Figure:
    """Probabilities by column and line; the table has the same columns."""
    rows = [
        {"at": column, "of": line, "p": round(probability, 4)}
        for column, cells in columns.items()
        for line, probability in cells.items()
    ]
    lines = dict.fromkeys(str(row["of"]) for row in rows)
    values = [cells[line] for cells in columns.values() for line in cells]
    shown = tuple(
        (line, *(percent(cells.get(line)) for cells in columns.values())) for line in lines
    )
    span = f"Strong colours are probable: {min(values):.1%} to {max(values):.1%}."
    headers = (x, *map(str, columns))
    chart = heat_chart(rows, x=x, y="")
    return Figure(title, f"{caption} {span}", chart, Grid(headers, shown), wide=wide)
