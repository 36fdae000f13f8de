"""Figure of the front of a search: scores over latency, and which networks are not dominated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latbench.errors import MismatchError
from latbench.report.page.document import Figure, Grid
from latbench.report.page.latency_charts import front_chart
from latbench.report.page.wording import ms
from latbench.tables import LatencyTable
from nas.optimize.fronts import Point, beaten
from nas.report.page.run_contents import RunContents
from nas.report.page.scores import ScoreScale
from nas.report.page.search_figures import Latency
from nas.spaces import Architecture, space_of
from nas.training.run_config import FITNESS


@dataclass(frozen=True)
class FoundPoint:
    """A network that a search found.

    Attributes:
        name: Name of its budget.
        architecture: The network.
        score: Its score with the supernet's weights.
        latency: Its measured latency, or else the predicted one.
    """

    name: str
    architecture: Architecture
    score: float
    latency: Latency


def front_figure(
    run: RunContents, table: LatencyTable | None, found: Sequence[FoundPoint]
) -> Figure | None:
    """Scores over latency of all evaluated and all found networks; None for fewer than two.

    Args:
        run: The search.
        table: The table that predicts latencies of evaluated networks; None leaves them out.
        found: The networks that were found.
    """
    rows = _rows(run, table, found)
    if len(rows) < 2:
        return None
    scale = ScoreScale.of(run.config.get(FITNESS), [row["score"] for row in rows])
    shown = _marked(rows)
    drawn = [row | {"score": scale.sign * row["score"]} for row in shown]
    targets = [each.target_ms for each in run.found if each.target_ms is not None]
    return Figure(
        f"{scale.name.capitalize()} and latency",
        f"Latency and {scale.name} with the supernet's weights. Networks on the line are not "
        "dominated: no other one is faster and better. Dashed lines are the budgets, bars the "
        "intervals of measured latencies.",
        front_chart(
            drawn, score=f"supernet's {scale.name}", is_share=scale.is_share, budgets=targets
        ),
        Grid(
            ("network", "latency", "ms", "low", "high", scale.name, "dominated"),
            tuple(
                (
                    row["kind"],
                    row["measured"],
                    *(ms(row[name]) for name in ("latency", "low", "high")),
                    scale.shown(row["score"], 2),
                    "no" if row["best"] else "yes",
                )
                for row in shown
            ),
            labels=2,
        ),
        wide=True,
    )


def _rows(
    run: RunContents, table: LatencyTable | None, found: Sequence[FoundPoint]
) -> list[dict[str, Any]]:
    """All evaluated and all found networks, with scores and latencies."""
    rows: list[dict[str, Any]] = [
        {
            "kind": "evaluated",
            "score": score,
            "latency": latency_ms,
            "low": None,
            "high": None,
            "measured": "predicted",
        }
        for latency_ms, score in _evaluated(run, table, [point.architecture for point in found])
    ]
    for point in found:
        rows.append(
            {
                "kind": f"found for {point.name}" if len(found) <= 4 else "found",
                "score": point.score,
                "latency": point.latency.latency_ms,
                "low": point.latency.low_ms,
                "high": point.latency.high_ms,
                "measured": point.latency.kind,
            }
        )
    return rows


def _evaluated(
    run: RunContents, table: LatencyTable | None, found: Sequence[Architecture]
) -> list[tuple[float, float]]:
    """Predicted latency and score of the evaluated networks that were not found."""
    points = []
    for architecture, score in run.evaluations if table is not None else ():
        if architecture in found:
            continue
        try:
            network = space_of(architecture).lower(architecture)
            assert table is not None
            points.append((table.predict(network).latency_ms, score))
        except MismatchError:  # the search had another table
            continue
    return points


def _marked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows from the fastest to the slowest, each with whether no other one is better."""
    ordered = sorted(rows, key=lambda row: (row["latency"], -row["score"]))
    points = [_point(row) for row in ordered]
    return [
        {**row, "best": not is_beaten}
        for row, is_beaten in zip(ordered, beaten(points), strict=True)
    ]


def _point(row: dict[str, Any]) -> Point:
    """Latency and score of a row; only measured latencies have an interval here."""
    if row["measured"] != "measured" or row["low"] is None:
        return Point(row["latency"], row["latency"], row["score"])
    return Point(row["low"], row["high"], row["score"])
