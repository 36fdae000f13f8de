"""Terminal output of spaces, architectures, costs and latencies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latbench.cost import Cost
from latbench.device import DeviceProfile
from latbench.report.terminal import print_lines, print_table
from latbench.tables import Prediction
from latbench.units import format_ms
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
            f"{millions['params_m']:.3f} M parameters"
        ]
    )


def show_prediction(predicted: Prediction, device: DeviceProfile) -> None:
    """Print a predicted latency with its interval, or how to get one."""
    images = "one image" if device.batch_size == 1 else f"a batch of {device.batch_size}"
    if predicted.low_ms is None or predicted.high_ms is None:
        interval = "`latbench calibrate` adds an interval"
    else:
        ends = f"{format_ms(predicted.low_ms)} to {format_ms(predicted.high_ms)}"
        interval = f"90 % interval {ends}"
    print_lines([f"{format_ms(predicted.latency_ms)} for {images} on {device.name}; {interval}"])


def show_fit(fitted: FittedArchitecture, output: Path | None) -> None:
    """Print how close a fit is to its target, and the architecture or its file."""
    lines = [
        f"{format_ms(fitted.latency_ms)}, {1 - fitted.latency_ms / fitted.target_ms:.2%} below the "
        f"target; this architecture reaches {format_ms(fitted.min_ms)} to "
        f"{format_ms(fitted.max_ms)}"
    ]
    if fitted.measured_ms is not None:
        lines.append(f"{format_ms(fitted.measured_ms)} measured")
    print_lines(lines)
    show_architecture(fitted.architecture, output)
