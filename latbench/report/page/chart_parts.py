"""What all charts share: their data, colours and shapes of series, and their settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from latbench.lazy import needing
from latbench.report.page.document import Spec
from latbench.report.page.palette import chart_config, series_colours

with needing("report"):
    import altair as alt

Row = Mapping[str, Any]
"""A row of a chart's data. Its texts are only ever data, so no name can change a chart."""

TALL, LOW = 300, 220  # heights of charts in pixels

_DIGITS = 6  # significant digits of a number in a chart: more than a screen shows
_SHAPES = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down"]


def rows_chart(rows: Sequence[Row]) -> alt.Chart:
    """A chart of some rows, without a mark."""
    values = [{key: rounded(value) for key, value in row.items()} for row in rows]
    return alt.Chart(alt.InlineData(values=values))


def rounded(value: Any) -> Any:
    """A number with as many digits as a chart needs; None if it is not finite."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def distinct(rows: Sequence[Row], key: str) -> list[str]:
    """The texts of a column, each once, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def hues(key: str, names: Sequence[str]) -> alt.Color:
    """Colours by name; the legend is left out for a single name."""
    hues = alt.Color(f"{key}:N").scale(domain=names, range=series_colours(len(names)))
    return hues if len(names) > 1 else hues.legend(None)


def shapes(key: str, names: Sequence[str]) -> alt.Shape:
    """Shapes by name, which tell series apart without colour."""
    shapes = [_SHAPES[number % len(_SHAPES)] for number in range(len(names))]
    found = alt.Shape(f"{key}:N").scale(domain=names, range=shapes)
    return found if len(names) > 1 else found.legend(None)


def finished(chart: alt.LayerChart | alt.FacetChart, *, height: int) -> Spec:
    """The specification of a chart that fills the width of its place."""
    sized = chart.properties(width="container", height=height)
    spec: Spec = sized.to_dict(validate=False)
    config = {key: value for key, value in spec.pop("config", {}).items() if key != "view"}
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["config"] = {**config, **chart_config()}
    return spec
