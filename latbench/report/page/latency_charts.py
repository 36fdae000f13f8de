"""Charts of latencies: against budgets, measurements, scores and widths.

Each is a pure function: rows of numbers in, a Vega-Lite specification out. Titles and expressions
are constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from latbench.lazy import needing
from latbench.report.page.chart_parts import (
    LOW,
    TALL,
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

_ERROR = "predicted / measured - 1"


def budget_chart(rows: Sequence[Row]) -> Spec:
    """Predicted and measured latencies with their intervals, relative to the budget.

    Args:
        rows: ``name`` of the budget, ``kind`` (predicted or measured), ``share`` of the budget
            that the latency takes, and the interval's ends ``low`` and ``high``, which may be None.
    """
    kinds = distinct(rows, "kind")
    lanes = {
        "y": alt.Y("name:N").title(None).sort(None),
        "yOffset": alt.YOffset("kind:N").sort(kinds),
        "color": hues("kind", kinds),
        "tooltip": [
            alt.Tooltip("name:N", title="budget"),
            alt.Tooltip("kind:N", title="latency"),
            alt.Tooltip("latency:N", title="ms"),
            alt.Tooltip("share:Q", title="of the budget", format=".2%"),
        ],
    }
    at = alt.X("share:Q").title("latency / budget").scale(zero=False, nice=True).axis(format=".1%")
    limit = rows_chart([{"share": 1.0}]).mark_rule(color=colour("ink"), strokeWidth=1.2)
    layers = [limit.encode(x="share:Q")]
    bounded = [row for row in rows if row["low"] is not None]
    if bounded:
        interval = alt.X("low:Q").title("latency / budget")
        bars = rows_chart(bounded).mark_rule(strokeWidth=5, opacity=0.35)
        layers.append(bars.encode(x=interval, x2="high:Q", **lanes))
    points = rows_chart(rows).mark_point(size=70, opacity=1)
    layers.append(points.encode(x=at, shape=shapes("kind", kinds), **lanes))
    names = len(distinct(rows, "name"))
    return finished(alt.layer(*layers), height=34 * names + 8 * (names > 1))


def agreement_chart(
    rows: Sequence[Row], *, x: str = "predicted, ms", y: str = "measured, ms", error: str = _ERROR
) -> Spec:
    """Predicted against measured latencies, with the identity line and both intervals.

    Args:
        rows: ``kind`` of network, ``network`` in words, ``predicted``, ``measured``, and the ends
            of their intervals ``predicted_low``, ``predicted_high``, ``measured_low`` and
            ``measured_high``, which may be None; ``error``, a fraction.
        x: Title of the horizontal axis, which shows ``predicted``.
        y: Title of the vertical axis, which shows ``measured``.
        error: What the error is, in words.
    """
    names = ("predicted", "measured")
    known = [row[name] for row in rows for name in names]
    low, high = _margins(known)
    scale, ticks = _spread(low, high), _ticks(low, high)
    at_x = alt.X("predicted:Q").title(x).scale(scale).axis(ticks)
    at_y = alt.Y("measured:Q").title(y).scale(scale).axis(ticks)
    ends = [dict.fromkeys(names, value) for value in (low, high)]
    identity = (
        rows_chart(ends)
        .mark_line(color=colour("muted"), strokeWidth=1, strokeDash=[4, 3], aria=False)
        .encode(x=at_x, y=at_y)
    )
    kinds = distinct(rows, "kind")
    hue = hues("kind", kinds)
    layers = [identity]
    predicted = [row for row in rows if row["predicted_low"] is not None]
    if predicted:
        across = rows_chart(predicted).mark_rule(strokeWidth=1, opacity=0.55, clip=True)
        low_x = alt.X("predicted_low:Q").title(x)
        layers.append(across.encode(x=low_x, x2="predicted_high:Q", y=at_y, color=hue))
    measured = [row for row in rows if row["measured_low"] is not None]
    if measured:
        along = rows_chart(measured).mark_rule(strokeWidth=1.6, clip=True)
        low_y = alt.Y("measured_low:Q").title(y)
        layers.append(along.encode(x=at_x, y=low_y, y2="measured_high:Q", color=hue))
    points = rows_chart(rows).mark_point(size=34)
    points = points.encode(
        color=hue,
        x=at_x,
        y=at_y,
        shape=shapes("kind", kinds),
        tooltip=[
            alt.Tooltip("network:N"),
            alt.Tooltip("predicted:Q", title=x, format=".4"),
            alt.Tooltip("measured:Q", title=y, format=".4"),
            alt.Tooltip("error:Q", title=error, format="+.1%"),
        ],
    )
    return finished(alt.layer(*layers, points), height=TALL)


def error_chart(rows: Sequence[Row], *, x: str = "measured, ms", y: str = _ERROR) -> Spec:
    """Relative errors over the measured latency.

    Args:
        rows: As for ``agreement_chart``.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
    """
    kinds = distinct(rows, "kind")
    ends = _margins([row["measured"] for row in rows])
    zero = rows_chart([{"error": 0.0}]).mark_rule(
        color=colour("muted"), strokeDash=[4, 3], aria=False
    )
    points = (
        rows_chart(rows)
        .mark_point(size=34)
        .encode(
            x=alt.X("measured:Q").title(x).scale(_spread(*ends)).axis(_ticks(*ends)),
            y=alt.Y("error:Q").title(y).axis(format="+.0%", tickCount=6),
            color=hues("kind", kinds),
            shape=shapes("kind", kinds),
            tooltip=[
                alt.Tooltip("network:N"),
                alt.Tooltip("measured:Q", title=x, format=".4"),
                alt.Tooltip("error:Q", title=y, format="+.1%"),
            ],
        )
    )
    return finished(alt.layer(zero.encode(y="error:Q"), points), height=TALL)


def _margins(values: Sequence[float]) -> tuple[float, float]:
    """The ends of a scale around some latencies."""
    low, high = min(values), max(values)
    if _is_wide(low, high):
        return 0.9 * low, 1.1 * high
    edge = 0.06 * (high - low) or 0.05 * high
    return low - edge, high + edge


def _spread(low: float, high: float) -> alt.Scale:
    """A scale with these ends, logarithmic if they are far apart."""
    domain = [rounded(low), rounded(high)]
    if _is_wide(low, high):
        return alt.Scale(domain=domain, nice=False, type="log")
    return alt.Scale(domain=domain, nice=False, zero=False)


def _ticks(low: float, high: float) -> alt.Axis:
    """An axis for a scale with these ends; on a logarithmic one 1, 2 and 5 are marked."""
    if not _is_wide(low, high):
        return alt.Axis(tickCount=5, format="~g")
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return alt.Axis(values=[mark for mark in marks if low <= mark <= high], format="~g")


def _is_wide(low: float, high: float) -> bool:
    return low > 0 and high > 3 * low


def front_chart(
    rows: Sequence[Row], *, score: str, is_share: bool, budgets: Sequence[float]
) -> Spec:
    """Scores over latency: all networks, the best ones joined by a line.

    Args:
        rows: ``latency`` in ms with the ends ``low`` and ``high`` of its interval, which may be
            None; ``score``, a ``kind`` in words, and ``best``: whether no other network is both
            faster and better.
        score: Name of the score.
        is_share: Whether scores are fractions, which are shown in per cent.
        budgets: Budgets in ms, drawn as lines.
    """
    kinds = distinct(rows, "kind")
    x = alt.X("latency:Q").title("latency, ms").scale(zero=False).axis(tickCount=8)
    y = alt.Y("score:Q").title(score).scale(zero=False).axis(format=".1%" if is_share else "~g")
    base = rows_chart(rows)
    layers: list[alt.Chart] = []
    if budgets:
        limits = rows_chart([{"budget": budget} for budget in budgets])
        limits = limits.mark_rule(color=colour("muted"), strokeDash=[4, 3])
        tooltip = [alt.Tooltip("budget:Q", title="budget, ms", format=".4")]
        layers.append(limits.encode(x="budget:Q", tooltip=tooltip))
    bounded = [row for row in rows if row["low"] is not None]
    if bounded:
        bars = rows_chart(bounded).mark_rule(strokeWidth=4, opacity=0.35)
        low = alt.X("low:Q").title("latency, ms")
        layers.append(bars.encode(x=low, x2="high:Q", y=y, color=hues("kind", kinds)))
    edge = base.transform_filter(alt.datum.best).mark_line(
        interpolate="step-after", color=colour("muted"), strokeWidth=1.2, aria=False
    )
    points = base.mark_point(size=38).encode(
        x=x,
        y=y,
        color=hues("kind", kinds),
        shape=shapes("kind", kinds),
        opacity=alt.condition(alt.datum.best, alt.value(1), alt.value(0.45)),
        tooltip=[
            alt.Tooltip("kind:N", title="network"),
            alt.Tooltip("latency:Q", title="ms", format=".4"),
            alt.Tooltip("score:Q", title=score, format=".2%" if is_share else ".3f"),
        ],
    )
    return finished(alt.layer(*layers, edge.encode(x=x, y=y), points), height=TALL)


def width_chart(rows: Sequence[Row], curve: Sequence[Row]) -> Spec:
    """Price of a block over its width, by class of widths.

    Args:
        rows: Measured widths: ``width``, ``price`` in ms, ``group``, and ``efficient``: whether no
            wider width is as fast.
        curve: The curve between them, with the same keys.
    """
    groups = distinct([*curve, *rows], "group")
    x = alt.X("width:Q").title("width, channels").scale(zero=False, nice=False)
    x = x.axis(tickCount=6)
    y = alt.Y("price:Q").title("price, ms").scale(zero=True)
    hue = hues("group", groups)
    lines = rows_chart(curve).mark_line(strokeWidth=1.2, aria=False).encode(x=x, y=y, color=hue)
    points = (
        rows_chart(rows)
        .mark_point(size=22)
        .encode(
            x=x,
            y=y,
            color=hue,
            shape=shapes("group", groups),
            tooltip=[
                alt.Tooltip("width:Q"),
                alt.Tooltip("price:Q", title="ms", format=".4"),
                alt.Tooltip("group:N", title="class"),
                alt.Tooltip("efficient:N"),
            ],
        )
    )
    fast = [{"width": row["width"]} for row in curve if row["efficient"]]
    ticks = (
        rows_chart(fast)
        .mark_tick(thickness=1, height=7, color=colour("ink"), opacity=0.8, aria=False)
        .encode(x=x, y=alt.value("height"))
    )
    return finished(alt.layer(lines, points, ticks), height=LOW)
