"""Results of profilings of several devices as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.report.results import percent
from latbench.report.terminal import print_lines, print_table
from latbench.units import format_s
from nas.workflows.fleet_profiling import ProfiledDevice


def show_profiled_devices(devices: Sequence[ProfiledDevice]) -> None:
    """Print what became of each device, and the reasons of those that failed."""
    rows = [
        (
            each.device,
            str(each.result.blocks),
            format_s(each.result.seconds),
            percent(each.result.loo_error),
            str(each.table),
        )
        for each in devices
        if each.result is not None
    ]
    if rows:
        print_table(("device", "blocks", "time", "left-out error", "table"), rows)
    print_lines(f"{each.device} failed: {each.error}" for each in devices if each.error)
