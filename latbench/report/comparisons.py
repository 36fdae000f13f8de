"""Terminal output of networks that were compared, explained or aligned."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.measure.statistics import relative_half_width
from latbench.report.results import percent
from latbench.report.terminal import print_lines, print_table
from latbench.units import format_ms, format_span_ms
from latbench.workflows.alignment import Alignment
from latbench.workflows.bench import Bench, ModelLatency
from latbench.workflows.explanation import Explanation, SegmentLatency


def show_bench(compared: Sequence[Bench]) -> None:
    """Print the latencies on each device, their verdicts and the noise of the machine."""
    for found in compared:
        print_table(
            (found.device, "latency", "interval", "to the first", "interval", ""),
            [_comparison(row) for row in found.rows],
        )
        print_table(
            ("", "p50", "p90", "p99", "load", "memory"), [_details(row) for row in found.rows]
        )
        print_lines(_remarks(found))


def _comparison(row: ModelLatency) -> tuple[str, ...]:
    first = row.verdict == "BASELINE"
    return (
        row.model,
        format_ms(row.latency_ms),
        _interval(row.latency_ms, row.low_ms, row.high_ms),
        "" if first else f"{row.ratio:.3f}",
        "" if first else _interval(row.ratio, row.ratio_low, row.ratio_high),
        "" if first else row.verdict,
    )


def _in_one_line(name: str) -> str:
    return " ".join(name.split())


def _interval(estimate: float, low: float, high: float) -> str:
    return f"±{percent(relative_half_width(estimate, low, high))}"


def _interval_of_segment(part: SegmentLatency) -> str:
    if part.gmacs_per_s is None:
        return "in the base time"
    return _interval(part.latency_ms, part.low_ms, part.high_ms)


def _rate(per_s: float | None) -> str:
    return "" if per_s is None else f"{per_s:.1f}"


def _details(row: ModelLatency) -> tuple[str, ...]:
    return (
        row.model,
        *(format_ms(value) for value in (row.p50_ms, row.p90_ms, row.p99_ms)),
        format_ms(row.load_ms),
        f"{row.peak_mb:.0f} MB",
    )


def _remarks(found: Bench) -> list[str]:
    noise = found.noise
    lines = [
        f"{noise.passes} passes; the machine was {noise.verdict}: two halves of the sweep differ "
        f"by {percent(noise.split_half)}, and an ordinary call takes {percent(noise.slowdown)} "
        "more than an undisturbed one"
    ]
    if noise.loaded:
        lines.append(
            f"the machine is loaded: other processes use {noise.load:.1f} processors and leave "
            "none idle, so nothing is called SAME"
        )
    if noise.throttled:
        lines.append(f"the device was throttled: {noise.throttled}")
    if any(row.verdict == "UNSURE" for row in found.rows):
        lines.append(
            f"UNSURE: the interval of the ratio leaves open whether the change exceeds "
            f"{percent(found.tolerance)}; measure for longer (--time-limit) or stop other work"
        )
    return lines


def show_explanation(found: Explanation) -> None:
    """Print the segments of a network, then their sum beside the measured whole."""
    print_table(
        ("segment", "latency", "interval", "share", "MACs", "GMAC/s", "GB/s"),
        [
            (
                _in_one_line(part.name),
                format_ms(part.latency_ms),
                _interval_of_segment(part),
                percent(part.share),
                f"{part.macs_m:.1f} M",
                _rate(part.gmacs_per_s),
                _rate(part.gbytes_per_s),
            )
            for part in found.segments
        ],
    )
    lines = [f"{_in_one_line(part.name)}: {part.advice}" for part in found.segments if part.advice]
    if found.predicted_ms is None:
        lines.append(
            f"the sum is not a prediction: it errs by {percent(found.left_out_error)} on chains "
            "of segments that were left out; measure for longer (--time-limit)"
        )
    else:
        lines.append(f"the segments add up to {format_ms(found.predicted_ms)}")
    low_ms, high_ms = found.measured_low_ms, found.measured_high_ms
    if found.measured_ms is not None and low_ms is not None and high_ms is not None:
        lines.append(
            f"the whole network was measured at {format_ms(found.measured_ms)} "
            f"({format_span_ms(low_ms, high_ms)})"
        )
    print_lines(lines)


def show_alignment(found: Alignment) -> None:
    """Print the padded channels, the latencies before and after, and the file."""
    lines = []
    if found.padded:
        print_table(
            ("channels of", "before", "after"),
            [(each.tensor, str(each.before), str(each.after)) for each in found.padded],
        )
    interval = f"{found.ratio:.3f} ({found.ratio_low:.3f} to {found.ratio_high:.3f})"
    if found.path is None:
        lines.append(f"the model takes {format_ms(found.before_ms)}: no padding pays")
        if found.after_ms != found.before_ms:
            lines.append(f"the best one that was tried has a ratio of {interval}")
        lines.append("nothing was written")
    else:
        lines += [
            f"{format_ms(found.before_ms)} before, {format_ms(found.after_ms)} after: the ratio "
            f"is {interval}",
            f"the outputs differ by {found.max_abs_difference:.1e} of the largest one",
            f"wrote {found.path}",
        ]
    print_lines(lines)
