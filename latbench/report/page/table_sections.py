"""Sections of a page about a latency table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from latbench.blocks import Network
from latbench.conditions import in_words
from latbench.report.page.document import Grid, Page, Section, Value
from latbench.report.page.network_figure import DrawnBlock, network_figure
from latbench.report.page.table_figures import agreement_figures, noise_figure, width_figures
from latbench.report.page.wording import count, date, percent
from latbench.tables import LatencyTable, TableStore
from latbench.tables.network_parts import network_parts
from latbench.tables.sweep_history import LaterSweep, PassNoise, later_sweeps, pass_noise
from latbench.workflows.model_tables import is_model_table, table_model

_BROAD = 60  # characters of a command line after which the next option begins a line
_CURVES = 4  # width curves on a page


@dataclass(frozen=True)
class ReportedTable:
    """A table with its history, as a page needs them."""

    table: LatencyTable
    passes: tuple[PassNoise, ...]
    later: tuple[LaterSweep, ...]

    @classmethod
    def of(cls, table: LatencyTable) -> Self:
        """Read the history of a table from its file."""
        quantile = table.device.sweep.quantile
        with TableStore.open(table.path) as store:
            return cls(
                table,
                tuple(pass_noise(store, quantile)),
                tuple(later_sweeps(store, quantile)),
            )


def table_page(contents: ReportedTable) -> Page:
    """A page about one table."""
    return Page(_title(contents.table), table_subtitle(contents.table), table_sections(contents))


def table_subtitle(table: LatencyTable) -> str:
    """Machine and date of a table."""
    environment = table.environment
    return f"{table.device.name} ({environment.chip}), {date(environment.taken_at)}"


def _title(table: LatencyTable) -> str:
    if is_model_table(table):
        return f"Latency of a model's segments on {table.device.name}"
    return f"Latency of {table.space} on {table.device.name}"


def table_sections(
    contents: ReportedTable, *, names: Mapping[Network, str] | None = None, named: str = ""
) -> tuple[Section, ...]:
    """All sections about a table.

    Args:
        contents: The table.
        names: Names of measured networks that a reader knows.
        named: What these networks are, in words.
    """
    table = contents.table
    agreement = agreement_figures(table, contents.later, names=names or {}, named=named)
    widths = Section(
        "Latency over width",
        lines=(f"Width classes of this runtime: {table.curves}.",) if table.curves.measured else (),
        figures=tuple(width_figures(table, _CURVES)),
    )
    return (
        Section("The table", answers=(_quality(table),), lines=tuple(_remarks(table))),
        _segments(table),
        Section("Predictions of the table", figures=tuple(agreement)),
        widths if widths.figures else Section(""),
        _noise(contents),
        _environment(table),
        Section("Commands that make this table again", commands=tuple(table_commands(table))),
    )


def _quality(table: LatencyTable) -> tuple[Value, ...]:
    """The numbers that say how far a table can be trusted."""
    sources = [table.price(spec).source for spec in table.estimates]
    between = sum(spec not in table.estimates for spec in table.curves.between_specs())
    known = count(len(sources) - sources.count("included"), "block")
    detail = {name: sources.count(name) for name in dict.fromkeys(sources)}
    origin = ", ".join(f"{number:,} {name}" for name, number in detail.items())
    fit = table.fit
    interval = fit.price.half_width() if fit.calibrated else None
    values = [Value("prices", known, f"{origin}; {between:,} more widths interpolated")]
    if fit.price.loo_error is not None:
        values.append(
            Value(
                "error of a prediction",
                percent(fit.price.loo_error),
                f"mean over {fit.price.networks} networks left out of the fit"
                + (f"; 90 % interval ±{percent(interval)}" if interval is not None else ""),
            )
        )
    if fit.floor is not None:
        values.append(
            Value(
                "networks against themselves",
                percent(fit.floor),
                "two halves of the sweep; no prediction can be better",
                "open" if fit.noisy else "",
            )
        )
    if fit.held_out_error is not None:
        values.append(
            Value("error between widths", percent(fit.held_out_error), "at held-out widths")
        )
    return tuple(values)


def _remarks(table: LatencyTable) -> list[str]:
    lines = list(table.environment.remarks)
    noisy = sum(estimate.noisy for estimate in table.estimates.values())
    if noisy:
        blocks = count(noisy, "measured block")
        lines.append(f"{blocks} did not converge: few visits or wide intervals.")
    if table.origin is not None:
        lines.append(
            f"The prices were imported from {table.origin.file} ({table.origin.format}); nothing "
            "was measured here."
        )
        lines += [f"Defect of that file: {defect}." for defect in table.origin.defects]
    return lines


def _segments(table: LatencyTable) -> Section:
    """The segments of a table's model; empty for a table of a space."""
    if not is_model_table(table) or not table.networks:
        return Section("")
    model = table_model(table)
    blocks = [
        DrawnBlock(
            "segment" if part.block else "once",
            str(part.block) if part.block else "once a network",
            str(part.block or ""),
            part.latency_ms,
            part.low_ms,
            part.high_ms,
            part.source,
            part.block is not None,
        )
        for part in network_parts(table, model)
    ]
    caption = "Segments of the model in the order of execution, with their shares of its latency."
    figure = network_figure("Where the milliseconds go", caption, blocks, unit="ms")
    return Section("The model", figures=(figure,))


def _noise(contents: ReportedTable) -> Section:
    later = contents.later
    drifts = Grid(
        ("sweep", "finished at", "networks", "drift"),
        tuple(
            (
                sweep.purpose,
                date(sweep.finished_at),
                str(len(sweep.networks)),
                percent(None if sweep.drift is None else sweep.drift - 1, signed=True),
            )
            for sweep in later
        ),
        labels=2,
        caption="Later sweeps, and the latency of the profiling's networks then against before",
    )
    figures = (noise_figure(contents.passes),) if contents.passes else ()
    return Section("The machine", figures=figures, tables=(drifts,) if later else ())


def _environment(table: LatencyTable) -> Section:
    e, device = table.environment, table.device
    clock = "" if e.clock_mhz is None else f"{e.clock_mhz:.0f} MHz"
    rows: list[tuple[str, str]] = [
        ("device profile", f"{device.name}: {device.runtime} on {device.device}"),
        ("batch, threads, precision", f"{device.batch_size}, {device.threads}, {device.precision}"),
        ("each call", device.condition or ""),
        ("processor", f"{e.cpu}, {count(e.cores, 'core')} used" if e.cores else e.cpu),
        ("governor and clock", ", ".join(filter(None, (e.governor or "", clock)))),
        ("L2 cache", f"{e.l2_bytes >> 10:,} KiB" if e.l2_bytes else ""),
        ("memory", f"{e.memory_mib:,} MiB" if e.memory_mib else ""),
        ("system", e.system),
        ("versions", ", ".join(f"{name} {version}" for name, version in e.versions.items())),
        ("measured", date(e.taken_at)),
        ("after its passes", in_words(table.conditions)),
    ]
    if e.gpu is not None:
        rows.insert(2, ("GPU", f"{e.gpu.name}, driver {e.gpu.driver}"))
    shown = tuple(row for row in rows if row[1])
    return Section("Environment", tables=(Grid(("", ""), shown, labels=2),))


def table_commands(table: LatencyTable) -> list[str]:
    """Command lines that make a table again."""
    label, path = table.space, str(table.path)
    if table.origin is not None:
        origin = table.origin
        command: Sequence[str] = ("table", "import", origin.file, "--format", origin.format)
        unit = ("--unit", origin.unit) if origin.unit else ()
        return [shell(*command, *unit, "--device", table.device.name, "-o", path)]
    batch = ("--batch-size", str(table.device.batch_size)) if table.device.batch_size > 1 else ()
    if is_model_table(table):
        return [shell("explain", "MODEL", "--device", table.device.name, *batch, "-o", path)]
    variant = [
        *(["--se"] if label.se else []),
        *(["--activation", label.activation] if label.activation != "relu6" else []),
    ]
    size = ("--input-size", str(label.input_size), "--classes", str(label.classes))
    lines = [shell("profile", table.device.name, label.name, *size, *variant, *batch, "-o", path)]
    added = table.price_model.networks - table.device.sweep.networks
    if table.fit.calibrated and added > 0:
        lines.append(shell("calibrate", path, "--networks", str(added)))
    return lines


def shell(*words: str) -> str:
    """A command line of latbench, quoted where a shell needs it, long ones on several lines."""
    lines = ["latbench"]
    for word in map(shlex.quote, words):
        if word.startswith("-") and len(lines[-1]) > _BROAD:
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)
