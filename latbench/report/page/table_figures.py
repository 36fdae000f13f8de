"""Figures of a latency table: width curves, predicted against measured, noise, parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latbench.blocks import BlockSpec, Network, with_width
from latbench.errors import MismatchError
from latbench.report.curves import chosen_curves, width_class_name
from latbench.report.page.charts import band_chart
from latbench.report.page.document import Figure, Grid
from latbench.report.page.latency_charts import agreement_chart, error_chart, width_chart
from latbench.report.page.wording import date, ms, percent
from latbench.tables import LatencyTable
from latbench.tables.efficient_widths import efficient_widths
from latbench.tables.sweep_history import LaterSweep, PassNoise

_MOST_POINTS = 240  # points of a drawn curve: more than a screen shows
_FITTED, _LATER = "of the fit, left out in turn", "measured later"


def width_figures(table: LatencyTable, most: int) -> list[Figure]:
    """Latency over width of some blocks, from the narrowest to the widest."""
    return [_width_figure(table, shape) for shape in chosen_curves(table, most)]


def _width_figure(table: LatencyTable, shape: BlockSpec) -> Figure:
    known, alignment = table.curves.measured[shape], table.curves.alignment
    assert alignment is not None  # a curve exists only with an alignment
    specs = {width: with_width(shape, width) for width in range(min(known), max(known) + 1)}
    priced = {width: spec for width, spec in specs.items() if spec in table}
    fast = set(efficient_widths(table, priced))
    rows = [
        {
            "width": width,
            "price": table.price_ms(spec),
            "group": width_class_name(alignment.class_of(width)),
            "efficient": width in fast,
        }
        for width, spec in priced.items()
    ]
    measured = {width: row for width, row in zip(priced, rows, strict=True) if width in known}
    cells = []
    for width, row in measured.items():
        price = table.price(priced[width])
        low, high = ms(price.low_ms), ms(price.high_ms)
        efficient = "yes" if row["efficient"] else "no"
        cells.append((str(row["group"]), str(width), ms(price.price_ms), low, high, efficient))
    return Figure(
        str(shape),
        f"Dots are measured widths, lines are interpolated. {len(fast)} of {len(priced)} widths "
        "are efficient: no wider width is as fast. Marks on the axis show them.",
        width_chart(list(measured.values()), _thinned(rows)),
        Grid(("class", "width", "price, ms", "low", "high", "efficient"), tuple(cells)),
    )


def _thinned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many points of a curve; its ends, and widths of every class, stay."""
    step = -(-len(rows) // _MOST_POINTS)
    if step == 1:
        return list(rows)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    kept = [row for group in groups.values() for row in (*group[:-1:step], group[-1])]
    return sorted(kept, key=lambda row: int(row["width"]))


def agreement_figures(
    table: LatencyTable,
    later: Sequence[LaterSweep],
    *,
    names: Mapping[Network, str],
    named: str = "",
) -> list[Figure]:
    """Predicted against measured latencies of all whole networks, and the errors; none without any.

    Args:
        table: The table that predicts.
        later: Sweeps after the profiling.
        names: Names of the networks that a reader knows.
        named: What these networks are, in words.
    """
    rows = _fitted_rows(table) + _later_rows(table, later, names, named)
    if not rows:
        return []
    across = "horizontal ones 90 % intervals of the prediction."
    if not table.fit.calibrated:
        across = "and `latbench calibrate` adds those of predictions."
    cells = [
        (
            row["network"],
            row["kind"],
            row["when"],
            ms(row["predicted"]),
            ms(row["measured"]),
            f"{ms(row['measured_low'])} to {ms(row['measured_high'])}",
            percent(row["error"], signed=True),
        )
        for row in rows
    ]
    headers = ("network", "", "measured at", "predicted, ms", "measured, ms", "interval", "error")
    errors = tuple((network, kind, error) for network, kind, *_, error in cells)
    return [
        Figure(
            "Predicted against measured",
            "Whole networks. On the dashed line a prediction is exact. Vertical lines are 95 % "
            f"intervals of the measurement, {across}",
            agreement_chart(rows),
            Grid(headers, tuple(cells), labels=3),
        ),
        Figure(
            "Errors of the predictions",
            "Above the dashed line a prediction was too high. Machines drift by some percent "
            "between the profiling and later measurements.",
            error_chart(rows),
            Grid(("network", "", "error"), errors, labels=2),
        ),
    ]


def _fitted_rows(table: LatencyTable) -> list[dict[str, Any]]:
    """Networks that the prices were fitted on, each predicted by a fit without it."""
    errors = table.price_model.left_out_errors
    if len(errors) != len(table.networks):
        return []
    rows = []
    for number, (network, e) in enumerate(table.networks.items(), start=1):
        predicted = table.predict_left_out(network)
        rows.append(
            {
                "kind": _FITTED,
                "network": f"network {number}",
                "when": date(table.environment.taken_at),
                "predicted": predicted.latency_ms,
                "predicted_low": predicted.low_ms,
                "predicted_high": predicted.high_ms,
                "measured": e.hot_ms,
                "measured_low": e.hot_low_ms,
                "measured_high": e.hot_high_ms,
                "error": errors[number - 1],
            }
        )
    return rows


def _later_rows(
    table: LatencyTable, later: Sequence[LaterSweep], names: Mapping[Network, str], named: str
) -> list[dict[str, Any]]:
    """Networks of later sweeps that the prices were not fitted on."""
    rows = []
    for sweep in later:
        for number, (network, measured) in enumerate(sweep.networks.items(), start=1):
            if network in table.networks:
                continue
            try:
                predicted = table.predict(network)
            except MismatchError:  # the table priced it when it was measured
                continue
            known = network in names
            rows.append(
                {
                    "kind": named if known else _LATER,
                    "network": names[network] if known else f"{sweep.purpose} {number}",
                    "when": date(sweep.finished_at),
                    "predicted": predicted.latency_ms,
                    "predicted_low": predicted.low_ms,
                    "predicted_high": predicted.high_ms,
                    "measured": measured.estimate_ms,
                    "measured_low": measured.low_ms,
                    "measured_high": measured.high_ms,
                    "error": predicted.latency_ms / measured.estimate_ms - 1,
                }
            )
    return rows


def noise_figure(passes: Sequence[PassNoise]) -> Figure:
    """The machine's noise over the passes of the profiling."""
    rows = [
        {"at": each.number, "low": each.low, "middle": each.middle, "high": each.high}
        for each in passes
    ]
    return Figure(
        "Noise of the machine over the sweep",
        "How much longer a visit took than the estimate of its block or network: the median of "
        "each pass, and the range from one tenth to nine tenths. A quiet machine has a low, even "
        "band.",
        band_chart(rows, x="pass", y="slower than the estimate"),
        Grid(
            ("finished at", "pass", "one tenth", "median", "nine tenths"),
            tuple(
                (
                    date(each.finished_at),
                    str(each.number),
                    *(percent(v, signed=True) for v in (each.low, each.middle, each.high)),
                )
                for each in passes
            ),
        ),
        wide=True,
    )
