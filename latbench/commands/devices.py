"""``latbench devices``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from latbench.commands.options import DEVICE, DURATION, example, json_option
from latbench.commands.output import emit, progress

if TYPE_CHECKING:
    from latbench.device import DeviceProfile


@click.command(
    epilog=example("latbench devices", "latbench devices --check cpu-onnxruntime --duration 30s")
)
@click.option(
    "--check",
    "device",
    type=DEVICE,
    is_flag=False,
    flag_value="",
    metavar="[DEVICE]",
    help="Measure how noisy DEVICE is, a profile's name or file. Without a name, list devices.",
)
@click.option(
    "--duration",
    type=DURATION,
    default="60s",
    show_default=True,
    help="How long --check measures, such as 30s or 5min.",
)
@json_option
def devices(device: DeviceProfile | None, duration: float, as_json: bool) -> None:
    """List device profiles, or check how noisy one is.

    A device profile is a runtime on a processor or GPU. The list shows which profiles can run here,
    and what the others need. `--check` measures noise and drift, and prints the smallest error of a
    latency that can be detected now.
    """
    import latbench
    from latbench.report.results import show_devices, show_noise

    if device is not None:
        with progress("checking") as shown:
            found = latbench.check_device(device, duration=duration, progress=shown)
        emit({"devices": [found.as_dict()]}, as_json=as_json, render=lambda: show_noise(found))
        return
    listed = latbench.list_devices()
    rows = [status.as_dict() for status in listed]
    emit({"devices": rows}, as_json=as_json, render=lambda: show_devices(listed))
