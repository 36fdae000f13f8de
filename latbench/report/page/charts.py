"""Charts of parts, courses and probabilities.

Each is a pure function: rows of numbers in, a Vega-Lite specification out. Titles and expressions
are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latbench.lazy import needing
from latbench.report.page.chart_parts import (
    LOW,
    Row,
    distinct,
    finished,
    hues,
    rounded,
    rows_chart,
    shapes,
)
from latbench.report.page.document import Spec
from latbench.report.page.palette import colour

with needing("report"):
    import altair as alt

_SHORT = 4  # characters of a label that needs no slant
_ROW = 20  # height of a bar with its label


def bar_chart(rows: Sequence[Row], *, unit: str) -> Spec:
    """Parts of a network as bars, in the order of execution.

    Args:
        rows: ``part``, which is different for every row; ``amount`` in ``unit``; its ``share`` of
            the whole; ``stage`` and ``block`` in words; ``even``, which changes with the stage.
        unit: Unit of the amounts, such as ms.
    """
    # the share of the longest bar stands beside it
    room = alt.Scale(domain=[0, 1.18 * max(row["amount"] for row in rows)], nice=False)
    base = rows_chart(rows).encode(y=alt.Y("part:N").title(None).sort(None))
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=1.5).encode(
        x=alt.X("amount:Q").title(unit).axis(grid=True, tickCount=5).scale(room),
        color=alt.Color("even:N")
        .scale(domain=[0, 1, 2], range=[colour("blue"), colour("sky"), colour("muted")])
        .legend(None),
        tooltip=[
            alt.Tooltip("stage:N", title="part"),
            alt.Tooltip("block:N"),
            alt.Tooltip("amount:Q", title=unit, format=".4"),
            alt.Tooltip("share:Q", format=".1%"),
        ],
    )
    shares = base.mark_text(align="left", dx=5, aria=False).encode(
        x="amount:Q", text=alt.Text("share:Q", format=".1%")
    )
    return finished(alt.layer(bars, shares), height=_ROW * len(rows))


def line_chart(
    rows: Sequence[Row], *, x: str, y: str, limit: float | None = None, zero: bool = False
) -> Spec:
    """Values over time, one line a series.

    Args:
        rows: ``at``, ``value`` and ``series``.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        limit: Value of a horizontal line, such as a budget; None for none.
        zero: Whether the vertical axis begins at 0.
    """
    series = distinct(rows, "series")
    hue = hues("series", series)
    at = alt.X("at:Q").title(x).axis(tickMinStep=1, format="d").scale(zero=False, nice=False)
    value = alt.Y("value:Q").title(y).scale(zero=zero).axis(tickCount=5)
    base = rows_chart(rows).encode(x=at, y=value, color=hue)
    lines = base.mark_line(aria=False)
    points = base.mark_point(size=26).encode(
        shape=shapes("series", series),
        tooltip=[
            alt.Tooltip("series:N", title="line"),
            alt.Tooltip("at:Q", title=x),
            alt.Tooltip("value:Q", title=y, format=".4"),
        ],
    )
    layers: list[Any] = [lines, points]
    if limit is not None:
        rule = rows_chart([{"limit": limit}]).mark_rule(color=colour("ink"), strokeDash=[4, 3])
        layers.insert(0, rule.encode(y="limit:Q", tooltip=[alt.Tooltip("limit:Q", title="budget")]))
    return finished(alt.layer(*layers), height=LOW)


def band_chart(rows: Sequence[Row], *, x: str, y: str) -> Spec:
    """A middle value over time with the range of most values around it.

    Args:
        rows: ``at``, ``low``, ``middle`` and ``high``; the last three are fractions.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
    """
    at = alt.X("at:Q").title(x).axis(tickMinStep=1, format="d").scale(nice=False)
    base = rows_chart(rows).encode(x=at)
    share = alt.Axis(format="+.0%", tickCount=5)
    band = base.mark_area(opacity=0.22, color=colour("blue"), aria=False).encode(
        y=alt.Y("low:Q").title(y).axis(share), y2="high:Q"
    )
    middle = base.mark_line(color=colour("blue"), aria=False).encode(y=alt.Y("middle:Q").title(y))
    points = base.mark_point(size=20, color=colour("blue")).encode(
        y=alt.Y("middle:Q").title(y),
        tooltip=[
            alt.Tooltip("at:Q", title=x),
            alt.Tooltip("middle:Q", title="median", format="+.1%"),
            alt.Tooltip("low:Q", title="tenth", format="+.1%"),
            alt.Tooltip("high:Q", title="nine tenths", format="+.1%"),
        ],
    )
    return finished(alt.layer(band, middle, points), height=LOW)


def heat_chart(rows: Sequence[Row], *, x: str, y: str) -> Spec:
    """Probabilities as cells: the stronger the colour, the more probable.

    Args:
        rows: ``at`` (the column), ``of`` (the line) and the probability ``p``. There may be
            thousands of rows, so the names are short.
        x: Title of the columns.
        y: Title of the lines.
    """
    lines = distinct(rows, "of")
    short = all(len(str(row["at"])) <= _SHORT for row in rows)
    axis = alt.Axis(labelAngle=0 if short else -50, labelOverlap=short, grid=False)
    most = max(row["p"] for row in rows)
    cells = (
        rows_chart(rows)
        .mark_rect(color=colour("blue"), stroke=colour("paper"), strokeWidth=0.5)
        .encode(
            x=alt.X("at:O").title(x).sort(None).axis(axis),
            y=alt.Y("of:N").title(None if y == "" else y).sort(None),
            opacity=alt.Opacity("p:Q")
            .scale(domain=[0, rounded(most)], range=[0.03, 1])
            .legend(None),
            tooltip=[
                alt.Tooltip("of:N", title=y or "row"),
                alt.Tooltip("at:N", title=x),
                alt.Tooltip("p:Q", title="probability", format=".1%"),
            ],
        )
    )
    return finished(alt.layer(cells), height=max(18 * len(lines), 54))
