"""``latbench devices``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from latbench.commands.options import (
    DEVICE,
    DURATION,
    example,
    json_option,
    quiet_option,
)
from latbench.commands.output import emit, progress

if TYPE_CHECKING:
    from latbench.device import DeviceProfile


@click.command(
    epilog=example(
        "latbench devices",
        "latbench devices --check cpu-onnxruntime --duration 30s",
        "latbench devices --add pi5 --ssh pi@raspberrypi.local --python '~/latbench/bin/python'",
    )
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
@click.option("--add", "name", metavar="NAME", help="Write a profile of a device elsewhere.")
@click.option("--ssh", metavar="HOST", help="Where the device to add is, as for ssh.")
@click.option(
    "--python",
    default="python3",
    show_default=True,
    help="Python there that has latbench.",
)
@click.option(
    "--runtime",
    help="Runtime of the device to add.  [default: that of its present profile, or onnxruntime]",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of one call.  [default: those of its present profile, or 1]",
)
@quiet_option
@json_option
def devices(
    device: DeviceProfile | None,
    duration: float,
    name: str | None,
    ssh: str | None,
    python: str,
    runtime: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """List device profiles, check one, or add one.

    A device profile is a runtime on a processor or GPU. The list shows which profiles can run here,
    and what the others need. `--check` measures noise and drift, and prints the smallest error of a
    latency that can be detected now. `--add` reaches a device by ssh, says what to change there,
    and writes its profile. Use its name then like any other.
    """
    import latbench
    from latbench.device import Host
    from latbench.report.devices import show_added_device, show_devices, show_noise

    if (name is None) != (ssh is None):
        raise click.UsageError("--add NAME and --ssh HOST belong together.")
    if name is not None and device is not None:
        raise click.UsageError("--check and --add are two commands: give one of them.")
    _refuse_unused(("python", "runtime", "threads"), "--add NAME", used=name is not None)
    _refuse_unused(("duration",), "--check DEVICE", used=device is not None)
    if name is not None and ssh is not None:
        with progress("adding") as shown:
            added = latbench.add_device(
                name,
                Host.checked(ssh=ssh, python=python),
                runtime=runtime,
                threads=threads,
                progress=shown,
            )
        emit(added.as_dict(), as_json=as_json, render=lambda: show_added_device(added))
        return
    if device is not None:
        with progress("checking") as shown:
            found = latbench.check_device(device, duration=duration, progress=shown)
        emit({"devices": [found.as_dict()]}, as_json=as_json, render=lambda: show_noise(found))
        return
    listed = latbench.list_devices()
    rows = [status.as_dict() for status in listed]
    emit({"devices": rows}, as_json=as_json, render=lambda: show_devices(listed))


def _refuse_unused(options: Sequence[str], with_: str, *, used: bool) -> None:
    """Refuse options that were given, and that only another one uses."""
    source = click.get_current_context().get_parameter_source
    for option in options:
        if not used and source(option) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{option} belongs to {with_}: give both, or leave it out.")
