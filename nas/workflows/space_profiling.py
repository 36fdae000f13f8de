"""Profiling of a device for a search space: fill, resume or plan a latency table."""

from __future__ import annotations

from pathlib import Path

from latbench.device import AnyDevice
from latbench.progress import Progress, silent
from latbench.tables import LatencyTable
from latbench.units import as_duration_s
from latbench.workflows.forecast import Forecast
from latbench.workflows.profiling import ProfileResult
from latbench.workflows.table_checks import open_table
from latbench.workflows.transfer import TransferResult
from nas.latency.table_filling import forecast_space, profile_space, transfer_space
from nas.workflows.inputs import AnySpace, AnyTable, as_profiler, as_space

TIME_LIMIT = "20min"


class ProfiledTable(LatencyTable):
    """A latency table, with the result of the profiling that filled it.

    Attributes:
        result: Result of the profiling: blocks, passes, errors.
    """

    result: ProfileResult | TransferResult


def profile(
    device: AnyDevice,
    space: AnySpace,
    output: str | Path,
    *,
    time_limit: str | float = TIME_LIMIT,
    source: AnyTable | None = None,
    progress: Progress = silent,
) -> ProfiledTable:
    """Measure the blocks of a space on a device; fill or resume a latency table.

    Ctrl-C ends a profiling like its time limit does, once every block has a price. The same call
    resumes from the file. Profile before you train in the same process: memory and threads left by
    a training slow down the measurements. See docs/measurement.md for the method.

    Args:
        device: A device profile, its name or its path.
        space: A search space, or its name.
        output: Path of the latency table; created if it does not exist.
        time_limit: Wall time, such as ``"8min"``, or in seconds. Every block still gets a price,
            but a rougher one. One pass over all blocks is always finished.
        source: Another device's table of this space. Most entries are then predicted from it, and
            few blocks are measured.
        progress: Callback with the fraction done and a short description.

    Raises:
        UnknownNameError: There is no such device or space.
        MissingExtraError: The device's runtime is not installed.
        DeviceBusyError: Another process measures on the device.
        MismatchError: The table at ``output`` is of another device, machine or space.
        RuntimeFailure: The runtime refused a block.
    """
    profiler, made, path = as_profiler(device), as_space(space), Path(output)
    result: ProfileResult | TransferResult
    limit_s = as_duration_s(time_limit)
    if source is None:
        result = profile_space(profiler, path, made, time_limit_s=limit_s, progress=progress)
    else:
        result = transfer_space(
            profiler,
            path,
            made,
            open_table(source),
            time_limit_s=limit_s,
            progress=progress,
        )
    table = ProfiledTable.open(path)
    table.result = result
    return table


def forecast(
    device: AnyDevice, space: AnySpace, *, time_limit: str | float = TIME_LIMIT
) -> Forecast:
    """Say what ``profile`` would take, from a visit to a sample of the blocks.

    Args:
        device: A device profile, its name or its path.
        space: A search space, or its name.
        time_limit: Wall time that the profiling would have, such as ``"8min"``, or in seconds.

    Raises:
        UnknownNameError: There is no such device or space.
        MissingExtraError: The device's runtime is not installed.
        DeviceBusyError: Another process measures on the device.
    """
    limit_s = as_duration_s(time_limit)
    return forecast_space(as_profiler(device), as_space(space), time_limit_s=limit_s)
