"""``latbench devices``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from latbench.commands.options import DURATION, json_option
from latbench.commands.output import emit
from latbench.errors import LatbenchError

if TYPE_CHECKING:
    from latbench.device import DeviceProfile
    from latbench.measure.noise import NoiseCheck


@click.command()
@click.option(
    "--check",
    is_flag=False,
    flag_value="",
    metavar="[DEVICE]",
    help="Measure noise and drift of one device; without a name, list what can run.",
)
@click.option("--duration", type=DURATION, default="60s", show_default=True, help="Of the check.")
@json_option
def devices(check: str | None, duration: float, as_json: bool) -> None:
    """Device profiles, and which of them can run here."""
    from dataclasses import asdict

    from latbench.device import load_profile, shipped_profiles
    from latbench.profilers import PROFILERS
    from latbench.report.results import show_devices, show_noise

    if check:
        checked = load_profile(check)
        noise = _check_noise(checked, duration)
        about = {"name": checked.name, "runtime": checked.runtime}
        rows = [{**about, "available": True, "reason": None, **asdict(noise)}]
        emit({"devices": rows}, as_json=as_json, render=lambda: show_noise(check, noise))
        return
    rows = []
    for name in shipped_profiles():
        profile = load_profile(name)
        try:
            reason = PROFILERS[profile.runtime].unavailable(profile)
        except LatbenchError as error:
            reason = error.message
        rows.append(
            {
                "name": name,
                "runtime": profile.runtime,
                "device": profile.device,
                "batch_size": profile.batch_size,
                "precision": profile.precision,
                "threads": profile.threads,
                "available": reason is None,
                "reason": reason,
            }
        )

    emit({"devices": rows}, as_json=as_json, render=lambda: show_devices(rows))


def _check_noise(device: DeviceProfile, seconds: float) -> NoiseCheck:
    from latbench.measure.lock import device_lock
    from latbench.measure.noise import check_noise
    from latbench.profilers import make_profiler
    from latbench.report.terminal import progress_bar

    profiler = make_profiler(device)
    environment = profiler.environment()
    with device_lock(profiler.profile.device), progress_bar("checking") as progress:
        return check_noise(profiler, environment, seconds=seconds, progress=progress)
