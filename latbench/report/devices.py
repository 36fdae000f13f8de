"""Devices as text for the terminal: the list of them, their noise, one that was added."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.report.results import percent
from latbench.report.terminal import print_lines, print_table
from latbench.units import format_ms
from latbench.workflows.added_device import AddedDevice
from latbench.workflows.devices import DeviceCheck, DeviceStatus


def show_devices(devices: Sequence[DeviceStatus]) -> None:
    """Print the device profiles, whether they run here, and what the others need."""
    columns = ("name", "runtime", "device", "batch_size", "threads")
    print_table(
        ("device profile", "runtime", "device", "batch", "threads", "runs here"),
        [(*map(_shown, (getattr(row, c) for c in columns)), _place(row)) for row in devices],
    )
    lacking: dict[str, list[str]] = {}
    for row in devices:
        if row.reason:
            lacking.setdefault(row.reason, []).append(row.name)
    print_lines(f"{', '.join(names)}: {reason}" for reason, names in lacking.items())


def _shown(value: str | int | None) -> str:
    return "?" if value is None else str(value)


def _place(row: DeviceStatus) -> str:
    if row.host is not None:
        return f"on {row.host}"
    return "no" if row.reason else "yes"


def show_added_device(added: AddedDevice) -> None:
    """Print the state of a device that was added, what to change there, and the next command."""
    machine, now = added.environment, added.conditions
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    known = [
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_mib / 1024:.1f} GiB",
        machine.system,
        f"{now.temperature_c:.0f} °C" if now.temperature_c is not None else None,
        f"{now.free_mib} MiB free" if now.free_mib is not None else None,
    ]
    print_lines(
        [
            "; ".join(words for words in known if words),
            versions,
            *(f"to change there: {words}" for words in added.advice),
            f"written to {added.path}; try `latbench devices --check {added.name}`",
        ]
    )


def show_noise(found: DeviceCheck) -> None:
    """Print the result of a noise check and the suggested changes."""
    check = found.noise
    print_table(
        (found.name, "latency", "noise", "drift", "interval"),
        [
            (
                target.name,
                format_ms(target.latency_ms),
                percent(target.noise),
                percent(target.drift),
                f"±{percent(target.half_width)}",
            )
            for target in check.targets
        ],
    )
    print_lines(
        [
            f"smallest detectable error: {percent(check.tolerance)} for whole networks now "
            f"({check.visits} visits)",
            *(f"- {advice}" for advice in check.advice),
        ]
    )
