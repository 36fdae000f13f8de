"""Fill the latency table of a space: measure, transfer from another device, or forecast the time.

The workflows of ``latbench`` know blocks and networks. Here a space gives them: its blocks at all
widths, and random networks to fit the prices on.
"""

from __future__ import annotations

from math import inf
from pathlib import Path

from latbench.profilers import Profiler
from latbench.progress import Progress, silent
from latbench.tables import LatencyTable
from latbench.workflows.forecast import Forecast, forecast
from latbench.workflows.profiling import ProfileResult, profile
from latbench.workflows.transfer import TransferResult, transfer
from nas.latency.priced_space import space_label
from nas.spaces import SearchSpace, every_width, spread_networks


def profile_space(
    profiler: Profiler,
    path: Path,
    space: SearchSpace,
    *,
    time_limit_s: float,
    progress: Progress = silent,
) -> ProfileResult:
    """Fill the table of a space: measure blocks of all widths, and random networks to fit prices.

    Raises:
        LatbenchError: As ``latbench.workflows.profiling.profile``.
    """
    return profile(
        profiler,
        path,
        space_label(space),
        blocks=space.blocks(every_width),
        networks=spread_networks(space, profiler.profile.sweep.networks, seed=0),
        time_limit_s=time_limit_s,
        progress=progress,
    )


def transfer_space(
    profiler: Profiler,
    path: Path,
    space: SearchSpace,
    source: LatencyTable,
    *,
    time_limit_s: float = inf,
    progress: Progress = silent,
) -> TransferResult:
    """Fill the table of a space from another device's table and few measurements.

    Raises:
        LatbenchError: As ``latbench.workflows.transfer.transfer``; also if the source table
            belongs to another space.
    """
    source.require_space(space_label(space))
    networks = spread_networks(space, profiler.profile.sweep.networks, seed=0)
    return transfer(
        profiler, path, source, networks=networks, time_limit_s=time_limit_s, progress=progress
    )


def forecast_space(profiler: Profiler, space: SearchSpace, *, time_limit_s: float) -> Forecast:
    """The time and the number of measurements that ``profile_space`` would take.

    Raises:
        LatbenchError: As ``latbench.workflows.forecast.forecast``.
    """
    return forecast(
        profiler,
        blocks=space.blocks(every_width),
        networks=spread_networks(space, profiler.profile.sweep.networks, seed=0),
        time_limit_s=time_limit_s,
    )
