"""Colours of charts and pages, in a light and a dark theme, and the common settings of charts.

Charts of a page name their colours by CSS variables, so a change of theme or printing needs no new
drawing. Picture files have no style sheet: ``concrete`` replaces the names by the light theme's
colours. The series follow Okabe and Ito (2008): readers with the common colour deficiencies can
tell them apart. The dark theme has lighter versions of the same hues.
"""

from __future__ import annotations

import re
from typing import Any

from latbench.report.page.document import Spec

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f6f7f8",
    "ink": "#1a1d21",
    "muted": "#5b636c",
    "rule": "#dfe3e7",
    "blue": "#0067a5",
    "orange": "#c24e00",
    "green": "#00795a",
    "purple": "#a8508a",
    "ochre": "#a87500",
    "sky": "#3b93c9",
}
DARK = {
    "paper": "#15181c",
    "panel": "#1d2126",
    "ink": "#e7eaed",
    "muted": "#a1aab3",
    "rule": "#333a41",
    "blue": "#62b4ee",
    "orange": "#ff9152",
    "green": "#3fcc9f",
    "purple": "#e39bc6",
    "ochre": "#edbb55",
    "sky": "#9ad5f7",
}
SERIES = ("blue", "orange", "green", "purple", "ochre", "sky")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_DATA = ("data", "datasets", "domain")  # parts of a chart that hold texts of others
_NAME = re.compile(r"var\(--(\w+)\)")


def colour(name: str) -> str:
    """A colour of the theme, for a chart."""
    return f"var(--{name})"


def series_colours(count: int) -> list[str]:
    """Colours of so many series; they repeat after the last one."""
    return [colour(SERIES[number % len(SERIES)]) for number in range(count)]


def chart_config() -> dict[str, Any]:
    """Settings that all charts share: thin axes, quiet grid, no frame."""
    text = {"labelColor": colour("muted"), "titleColor": colour("muted"), "labelFontSize": 11}
    title = {"titleFontSize": 11, "titleFontWeight": "normal"}
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **text,
            **title,
            "domainColor": colour("rule"),
            "tickColor": colour("rule"),
            "gridColor": colour("rule"),
            "gridOpacity": 0.7,
            "labelLimit": 170,
            "labelPadding": 5,
            "titlePadding": 9,
            "tickSize": 4,
        },
        "axisX": {"grid": False, "labelOverlap": True, "labelFlush": True},
        "axisY": {"domain": False, "ticks": False},
        "legend": {
            **text,
            **title,
            "orient": "top",
            "direction": "horizontal",
            "columns": 3,
            "symbolOpacity": 1,
            "title": None,
            "labelLimit": 170,
            "symbolType": "circle",
            "symbolStrokeWidth": 2,
            "padding": 0,
            "offset": 10,
        },
        "text": {"color": colour("muted"), "fontSize": 11},
        "title": {
            "color": colour("ink"),
            "fontSize": 12,
            "fontWeight": "normal",
            "anchor": "start",
        },
        "point": {"filled": True, "size": 42, "opacity": 0.9},
        "line": {"strokeWidth": 1.8},
    }


def concrete(spec: Spec) -> Spec:
    """The same chart with the colours of the light theme in place of their names.

    Data are not changed.
    """
    return {key: value if key in _DATA else _concrete(value) for key, value in spec.items()}


def _concrete(value: Any) -> Any:
    if isinstance(value, dict):
        return concrete(value)
    if isinstance(value, list):
        return [_concrete(each) for each in value]
    if isinstance(value, str):
        return _NAME.sub(lambda found: LIGHT.get(found[1], found[0]), value)
    return value
