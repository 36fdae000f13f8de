"""Results of this package as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from shlex import quote
from typing import Any

from latbench.blocks import parse_block
from latbench.conditions import in_words
from latbench.measure.statistics import relative_half_width
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable, StoredFit, TableCheck
from latbench.tables.comparison import TableDifference
from latbench.tables.formats import entries
from latbench.tables.price_model import PriceModel
from latbench.units import format_ms, format_s
from latbench.workflows.forecast import Forecast
from latbench.workflows.network_errors import Verification
from latbench.workflows.profiling import ProfileResult
from latbench.workflows.transfer import TransferResult

NOTATION = (
    "blocks: k kernel, s stride, channels in-out, w width, se channels of squeeze-excite, "
    "g groups, @ side of the input map"
)
_SHOWN_CHANGES = 20
_SHOWN_NEGATIVE = 5  # a few are enough to show the kind of block


def show_forecast(expected: Forecast) -> None:
    """Print the expected duration and memory of a profiling run."""
    print_lines(
        [
            f"{expected.blocks} blocks to price, about {expected.measured} of them to measure, "
            f"and {expected.networks} networks",
            f"a pass takes about {format_s(expected.pass_s)}, the minimum number of passes "
            f"about {expected.minutes:.0f} min; the time limit allows {expected.passes} "
            "passes",
            "the peak memory there is not known"
            if expected.memory_mib is None
            else f"peak memory about {expected.memory_mib} MiB",
        ]
    )


def show_profiled(result: ProfileResult | TransferResult, path: Path) -> None:
    """Print the result of a profiling or a transfer, and the next command."""
    if isinstance(result, TransferResult):
        show_transfer(result, path)
    else:
        show_profile(result, path)


def show_profile(result: ProfileResult, path: Path) -> None:
    """Print the result of a profiling run and the next command."""
    lines = [
        f"{result.blocks} blocks priced in {format_s(result.seconds)} ({result.passes} passes; "
        f"stopped: {result.stopped}): {result.measured} measured, {result.interpolated} between "
        f"measured widths, {result.noisy} noisy",
        f"widths: {result.alignment}; error at held-out widths {percent(result.heldout_error)}",
        f"networks left out of the fit: {percent(result.loo_error)} mean error; "
        f"networks against themselves: {percent(result.floor)}",
    ]
    if result.noisy_sweep:
        lines.append(
            "this sweep is noisy: run the same command again on a quieter machine to continue it"
        )
    print_lines([*lines, f"next: latbench verify --random 24 --seed 7 --table {quote(str(path))}"])


def show_transfer(result: TransferResult, path: Path) -> None:
    """Print the result of a transfer and the next command."""
    print_lines(
        [
            f"{result.blocks} blocks, {result.measured} of them measured here, the others "
            f"transferred: mean error at blocks left out {percent(result.left_out_error)}, "
            f"95 % interval ±{percent(result.half_width)}",
            f"networks left out of the fit: {percent(result.fit.price.loo_error)} mean error",
            *(
                []
                if result.complete
                else [
                    f"the time was up after {result.passes} passes, fewer than an estimate needs: "
                    "run the same command again to continue"
                ]
            ),
            "next: the same `latbench profile` without --from measures the transferred blocks "
            f"({path})",
        ]
    )


def show_table(table: LatencyTable, *, worst: int) -> None:
    """Print the description of a table and its entries with the widest intervals."""
    environment = table.environment
    gpu = environment.gpu
    chip = (
        environment.cpu if gpu is None else f"{gpu.name} (driver {gpu.driver}), {environment.cpu}"
    )
    rows: list[dict[str, Any]] = sorted(entries(table), key=_relative_width, reverse=True)
    device = table.device
    about = [
        f"{table.space} on {device.name}",
        f"batch {device.batch_size}",
        device.condition,
        f"{len(rows)} blocks measured",
    ]
    print_lines(
        [
            ", ".join(filter(None, about)),
            f"{chip}, {environment.system}, {environment.taken_at}",
            "  ".join(f"{name} {version}" for name, version in environment.versions.items()),
            *environment.remarks,
            *([f"after its passes: {words}"] if (words := in_words(table.conditions)) else []),
            f"widths: {table.curves}; error at held-out widths {percent(table.fit.held_out_error)}",
            _price_in_words(table.price_model),
            f"networks left out of the fit: {percent(table.price_model.loo_error)} mean error; "
            f"networks against themselves: {percent(table.fit.floor)}",
            "",
        ]
    )
    print_table(
        ("widest intervals", "price", "hot", "interval", "visits", ""),
        [
            (
                str(parse_block(row["block"])),
                format_ms(row["price_ms"]),
                format_ms(row["hot_ms"]),
                f"±{_relative_width(row):.1%}",
                str(row["visits"]),
                "noisy" if row["noisy"] else "",
            )
            for row in rows[:worst]
        ],
    )
    print_lines([NOTATION])


def show_check(found: TableCheck, *, imported: bool = False) -> None:
    """Print the unreliable entries of a table."""
    print_lines(
        [
            f"{found.entries} entries: {len(found.negative)} not positive, "
            f"{len(found.noisy)} noisy, {found.unpriced} without a price",
            *(
                [
                    f"imported: {found.unmapped} match no known block, {found.not_finite} are "
                    f"not a number, {found.duplicates} were duplicates"
                ]
                if imported
                else []
            ),
            *(f"not positive: {parse_block(key)}" for key in found.negative[:_SHOWN_NEGATIVE]),
            *(f"stale: {difference}" for difference in found.stale),
        ]
    )


def show_import(found: TableCheck, table: LatencyTable) -> None:
    """Print the unreliable entries of an imported table and the other defects of its file."""
    show_check(found, imported=True)
    defects = table.origin.defects if table.origin is not None else ()
    print_lines([*(f"defect: {defect}" for defect in defects), f"wrote {table.path}"])


def show_difference(found: TableDifference, *, tolerance: float) -> None:
    """Print the blocks that changed most, then the verdict."""
    changed = [c for c in found.changes if c.verdict in ("SLOWER", "FASTER")]
    changed.sort(key=lambda change: -abs(log(change.ratio)))
    if changed:
        print_table(
            ("block", "after / before", "95 % interval", ""),
            [
                (
                    str(change.spec),
                    f"{change.ratio:.3f}",
                    f"{change.low:.3f} to {change.high:.3f}",
                    change.verdict,
                )
                for change in changed[:_SHOWN_CHANGES]
            ],
        )
    counts = ", ".join(f"{found.count(v)} {v}" for v in ("SLOWER", "FASTER", "SAME", "UNSURE"))
    lines = [
        f"of {len(found.changes)} blocks {counts} (changes of more than {tolerance:.1%} count); "
        f"all in all {found.ratio - 1:+.1%}",
        *(f"changed: {difference}" for difference in found.environment),
    ]
    if found.count("UNSURE"):
        lines.append("UNSURE blocks need more visits: profile both tables for longer")
    if found.only_before or found.only_after:
        lines.append(
            f"not compared: {found.only_before} blocks measured only before, {found.only_after} "
            "only after"
        )
    print_lines(lines)


def show_calibration(fit: StoredFit, *, before: PriceModel, path: Path) -> None:
    """Print how a calibration changed the prices."""
    half_width = fit.price.half_width()
    print_lines(
        [
            f"prices fitted on {fit.price.networks} networks (before: {before.networks}); "
            f"networks left out of the fit: {percent(fit.price.loo_error)} mean error "
            f"(before: {percent(before.loo_error)})",
            f"90 % interval of a latency: ±{percent(half_width)}",
            f"next: latbench verify --random 24 --seed 7 --table {quote(str(path))}",
        ]
    )


def show_verification(
    names: Sequence[str], result: Verification, *, tolerance: float, passed: bool
) -> None:
    """Print a row for every network, then the verdict."""
    print_table(
        ("network", "predicted", "measured", "error", "drift out"),
        [
            (
                name,
                format_ms(row.predicted.latency_ms),
                f"{format_ms(row.measured.estimate_ms)} ±{row.measured.half_width:.1%}",
                f"{row.error:+.1%}",
                percent(row.error_drift_corrected, signed=True),
            )
            for name, row in zip(names, result.networks, strict=True)
        ],
    )
    verdict = "within" if passed else "beyond"
    lines = [
        f"mean error {result.mape:.1%}, {verdict} the tolerance of {tolerance:.1%}; "
        f"largest {result.max_error:.1%}, bias {result.bias:+.1%}",
    ]
    if result.drift is not None:
        lines.append(
            f"machine drift since profiling {result.drift - 1:+.1%}; without it mean "
            f"{percent(result.mape_drift_corrected)}, "
            f"largest {percent(result.max_error_drift_corrected)}"
        )
    if result.coverage is not None:
        lines.append(
            f"{result.coverage:.0%} of the networks inside their 90 % interval, which is "
            f"{percent(result.interval_width)} wide"
        )
    lines.append(f"networks against themselves {percent(result.floor)}")
    if result.kendall_tau is not None:
        lines[-1] += (
            f"; rank correlation {result.kendall_tau:.3f} over latencies that differ "
            f"{result.spread:.2g}-fold"
        )
    print_lines(lines)


def percent(value: float | None, *, signed: bool = False) -> str:
    """A fraction as text in per cent; ``unknown`` for None."""
    if value is None:
        return "unknown"
    return f"{value:+.1%}" if signed else f"{value:.1%}"


def _price_in_words(price: PriceModel) -> str:
    scales = ((price.cold_scale, "cold"), (price.hot_scale, "hot"))
    measured = " + ".join(f"{scale:.3f} x {name}" for scale, name in scales if scale)
    words = (
        f"price = {measured or 0} {'-' if price.block_ms < 0 else '+'} "
        f"{format_ms(abs(price.block_ms))} a block; {format_ms(price.network_ms)} a network"
    )
    if price.near_ms_per_byte:
        words += f"; {format_ms(price.near_ms_per_byte * 1e6)} for each MB of weights near"
    slopes = [
        f"{format_ms(point.ms_per_byte * 1e6)} for each MB beyond {point.above_bytes / 1e6:.1f} MB"
        for point in price.knees
    ]
    if slopes:
        counted = "weights"
        if price.fill_bytes_per_ms:
            counted += f" and {price.fill_bytes_per_ms / 1e6:.0f} MB a hot ms"
        slopes[-1] += f" of {counted}"
    return " and ".join([words, *slopes])


def _relative_width(row: Mapping[str, Any]) -> float:
    return relative_half_width(row["hot_ms"], row["hot_low_ms"], row["hot_high_ms"])
