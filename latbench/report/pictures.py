"""Picture files of width curves, in the format that the file's name ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latbench.errors import InvalidValueError
from latbench.files import write_atomically
from latbench.lazy import needing
from latbench.tables import LatencyTable

PICTURED = 12
"""Number of curves in a picture."""
_COLUMNS, _WIDTH, _HEIGHT = 3, 300, 190  # of one curve, in pixels
_SCALE = 2.0  # pixels of a PNG for each pixel of the drawing
_WHOLE = {"$schema", "autosize", "config", "datasets", "width", "height"}  # set once a picture


def draw_curves(table: LatencyTable, path: Path, *, count: int = PICTURED) -> int:
    """Draw the price over width of some blocks into a picture file; return the number of curves.

    Args:
        table: The table.
        path: File to write, which ends in .png, .svg or .pdf.
        count: Number of curves at most.

    Raises:
        MissingExtraError: A package of the extra ``report`` is not installed.
        InvalidValueError: The file name does not end in a picture format.
        InvalidFileError: The file cannot be written.
    """
    with needing("report"):
        import vl_convert
    from latbench.report.page.palette import LIGHT, chart_config, concrete
    from latbench.report.page.table_figures import width_figures

    kind = path.suffix.lower()
    if kind not in (".png", ".svg", ".pdf"):
        raise InvalidValueError(
            f"{path} is not a picture file: name one that ends in .png, .svg or .pdf"
        )
    figures = width_figures(table, count)
    charts = [
        {
            **{key: value for key, value in figure.spec.items() if key not in _WHOLE},
            "title": {"text": figure.title, "limit": _WIDTH},
            "width": _WIDTH,
            "height": _HEIGHT,
        }
        for figure in figures
    ]
    picture: dict[str, Any] = {
        "title": {
            "text": f"{table.space} on {table.device.name} ({table.environment.chip})",
            "fontSize": 14,
            "offset": 16,
        },
        "concat": charts,
        "datasets": {
            name: rows
            for figure in figures
            for name, rows in figure.spec.get("datasets", {}).items()
        },
        "columns": _COLUMNS,
        "spacing": 28,
        "padding": 16,
        "config": chart_config() | {"background": LIGHT["paper"]},
    }
    drawn = concrete(picture)
    if kind == ".png":
        data: bytes | str = vl_convert.vegalite_to_png(drawn, scale=_SCALE)
    elif kind == ".svg":
        data = vl_convert.vegalite_to_svg(drawn)
    else:
        data = vl_convert.vegalite_to_pdf(drawn)
    write_atomically(path, data)
    return len(figures)
