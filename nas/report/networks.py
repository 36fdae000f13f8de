"""Terminal output of spaces, architectures, costs and latencies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latbench.cost import Cost
from latbench.device import DeviceProfile
from latbench.report.terminal import print_lines, print_table
from latbench.tables import Prediction
from latbench.units import format_ms, format_span_ms
from nas.latency.correction import Correction
from nas.latency.width_scaling import Fit
from nas.spaces import Architecture
from nas.workflows.fitting import FittedArchitecture
from nas.workflows.networks import SpaceSummary


def show_spaces(spaces: Sequence[SpaceSummary]) -> None:
    """Print one row per space; for a single space, also its operations."""
    print_table(
        ("space", "input", "classes", "architectures", "layers", "ops", "searchable blocks"),
        [
            (
                space.name,
                f"{space.input_size} px",
                str(space.classes),
                f"{float(space.size):.1e}",
                str(space.layers),
                str(len(space.ops)),
                str(space.blocks),
            )
            for space in spaces
        ],
    )
    if len(spaces) == 1:
        print_lines([f"ops: {' '.join(spaces[0].ops)}"])


def show_architecture(architecture: Architecture, output: Path | None) -> None:
    """Print the file of an architecture, or its text if it was not written."""
    print_lines([f"wrote {output}" if output else architecture.to_json()])


def show_cost(cost: Cost) -> None:
    """Print multiply-accumulates and parameters."""
    millions = cost.in_millions()
    print_lines(
        [
            f"{millions['macs_m']:.3f} M MACs ({millions['conv_macs_m']:.3f} M in convolutions), "
            f"{millions['params_m']:.3f} M parameters, peak memory of activations "
            f"{millions['peak_memory_mb']:.3f} MB"
        ]
    )


def show_prediction(predicted: Prediction, device: DeviceProfile) -> None:
    """Print a predicted latency with its interval, or how to get one."""
    images = "one image" if device.batch_size == 1 else f"a batch of {device.batch_size}"
    if predicted.low_ms is None or predicted.high_ms is None:
        interval = "`latbench calibrate` adds an interval"
    else:
        ends = format_span_ms(predicted.low_ms, predicted.high_ms)
        interval = f"90 % interval {ends}"
    where = " ".join(filter(None, (f"on {device.name}", device.condition)))
    print_lines([f"{format_ms(predicted.latency_ms)} for {images} {where}; {interval}"])


def verdict_line(found: Correction[Fit]) -> str:
    """The verdict on a measured latency in one line."""
    ends = format_span_ms(found.measured_low_ms, found.measured_high_ms)
    rounds = "1 round" if found.rounds == 1 else f"{found.rounds} rounds"
    line = (
        f"{found.status}: {format_ms(found.measured_ms)} measured ({ends}) for a budget of "
        f"{format_ms(found.target_ms)}, {rounds}"
    )
    return f"{line}; {found.reason}" if found.reason else line


def show_fit(fitted: FittedArchitecture) -> None:
    """Print how close a fit is to its target."""
    left = 1 - fitted.latency_ms / fitted.target_ms
    away = f"{abs(left):.2%} {'below' if left >= 0 else 'above'} the target"
    lines = [
        f"{format_ms(fitted.latency_ms)} predicted, {away}; this architecture reaches "
        f"{format_ms(fitted.min_ms)} to {format_ms(fitted.max_ms)}"
    ]
    if fitted.confidence is not None:
        left_ms = fitted.target_ms - fitted.reached_ms
        lines.append(
            f"at most {format_ms(fitted.upper_ms or 0.0)} with a confidence of "
            f"{fitted.confidence:g}; {format_ms(left_ms)} ({left_ms / fitted.target_ms:.1%}) of "
            "the target are left unused"
        )
    if fitted.correction is not None:
        lines.append(verdict_line(fitted.correction))
    print_lines(lines)
