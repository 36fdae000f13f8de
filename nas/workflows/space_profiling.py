"""Profiling of a device for a search space or a model: fill, resume or plan a latency table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from latbench.device import DeviceProfile
from latbench.device_files import AnyDevice
from latbench.models.segments import Piece
from latbench.models.torch_modules import Example, require_example
from latbench.profilers import Profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.tables import LatencyTable
from latbench.units import as_duration_s
from latbench.workflows import forecast as planning
from latbench.workflows import profiling
from latbench.workflows.forecast import Forecast
from latbench.workflows.model_tables import (
    model_contents,
    pieces_priced_by,
    pieces_to_price,
)
from latbench.workflows.profiled_table import TableContents
from latbench.workflows.profiling import ProfileResult
from latbench.workflows.table_checks import open_table
from latbench.workflows.transfer import TransferResult, transfer
from nas.latency.table_contents import space_contents
from nas.workflows.inputs import (
    AnySpace,
    AnyTable,
    OwnModel,
    Shapes,
    as_pieces,
    as_profiler,
    as_space,
    is_own_model,
    require_no_shapes,
)

TIME_LIMIT = "20min"

_PREPARE_S = 2.0  # expected time to list the blocks of a space


class ProfiledTable(LatencyTable):
    """A latency table, with the result of the profiling that filled it.

    Attributes:
        result: Result of the profiling: blocks, passes, errors.
    """

    result: ProfileResult | TransferResult


# long because it describes every argument
def profile(
    device: AnyDevice,
    space: AnySpace | OwnModel,
    output: str | Path,
    *,
    shapes: Shapes | None = None,
    example: Example | None = None,
    batch_size: int | None = None,
    time_limit: str | float = TIME_LIMIT,
    source: AnyTable | None = None,
    progress: Progress = silent,
) -> ProfiledTable:
    """Measure the blocks of a space or a model on a device; fill or resume a latency table.

    Ctrl-C ends a profiling like its time limit does, once every block has a price. The same call
    resumes from the file. Profile before you train in the same process: memory and threads left by
    a training slow down the measurements. See docs/measurement.md for the method.

    Args:
        device: A device profile, its name or its path.
        space: A search space or its name; or an ONNX model, the path of its file or a torch
            module, whose segments are then the blocks.
        output: Path of the latency table; created if it does not exist.
        shapes: Shapes of inputs that the model's file leaves open, by name of the input.
        example: Input of a torch module, of the device's batch size.
        batch_size: Number of images a call; that of the device profile by default.
        time_limit: Wall time, such as ``"8min"``, or in seconds. Every block still gets a price,
            but a rougher one. One pass over all blocks is always finished.
        source: Another device's table, from which most entries are then predicted.
        progress: Callback with the fraction done and a short description.

    Raises:
        UnknownNameError: There is no such device or space.
        MissingExtraError: The device's runtime is not installed.
        DeviceBusyError: Another process measures on the device.
        MismatchError: The table at ``output`` is of another device, machine or space.
        RuntimeFailure: The runtime refused a block.
    """
    profiler = as_profiler(device, batch_size=batch_size)
    return fill(
        profiler,
        space,
        Path(output),
        shapes=shapes,
        example=example,
        time_limit=time_limit,
        source=source,
        progress=progress,
    )


def fill(
    profiler: Profiler,
    space: AnySpace | OwnModel,
    path: Path,
    *,
    shapes: Shapes | None = None,
    example: Example | None = None,
    time_limit: str | float,
    source: AnyTable | None = None,
    progress: Progress,
) -> ProfiledTable:
    """The same as ``profile``, with the profiler of the device."""
    limit_s = as_duration_s(time_limit)
    parts = [Phase("prepare", seconds=_PREPARE_S), Phase("profile", seconds=limit_s)]
    with Phases(progress, parts) as phases:
        preparing, filling = phases["prepare"], phases["profile"]
        preparing(0.0, "listing blocks")
        opened = None if source is None else open_table(source)

        def join(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
            if opened is not None:
                return pieces_priced_by(pieces, opened)
            return pieces_to_price(profiler, path, pieces, limit_s=limit_s, progress=preparing)

        contents = _contents(space, profiler.profile, shapes, example, join=join)
        result: ProfileResult | TransferResult
        if opened is None:
            result = profiling.profile(
                profiler, path, contents, time_limit_s=limit_s, progress=filling
            )
        else:
            opened.require_space(contents.label)
            networks = contents.networks
            result = transfer(
                profiler, path, opened, networks=networks, time_limit_s=limit_s, progress=filling
            )
        filling(1.0, "reading the table")
        table = ProfiledTable.open(path)
        table.result = result
        return table


def forecast(
    device: AnyDevice,
    space: AnySpace | OwnModel,
    *,
    shapes: Shapes | None = None,
    example: Example | None = None,
    batch_size: int | None = None,
    time_limit: str | float = TIME_LIMIT,
    progress: Progress = silent,
) -> Forecast:
    """Say what ``profile`` would take, from a visit to a sample of the blocks.

    Args:
        device: A device profile, its name or its path.
        space: A search space or its name; or an ONNX model, the path of its file or a torch module.
        shapes: Shapes of inputs that the model's file leaves open, by name of the input.
        example: Input of a torch module, of the device's batch size.
        batch_size: Number of images a call; that of the device profile by default.
        time_limit: Wall time that the profiling would have, such as ``"8min"``, or in seconds.
        progress: Callback with the fraction done and a short description.

    Raises:
        UnknownNameError: There is no such device or space.
        MissingExtraError: The device's runtime is not installed.
        DeviceBusyError: Another process measures on the device.
    """
    limit_s = as_duration_s(time_limit)
    profiler = as_profiler(device, batch_size=batch_size)
    with Phases(progress, [Phase("prepare", 1.0), Phase("measure", 1.0)]) as phases:
        phases["prepare"](0.0, "listing blocks")
        contents = _contents(space, profiler.profile, shapes, example)
        return planning.forecast(
            profiler, contents, time_limit_s=limit_s, progress=phases["measure"]
        )


def _contents(
    space: AnySpace | OwnModel,
    device: DeviceProfile,
    shapes: Shapes | None,
    example: Example | None,
    *,
    join: Callable[[Sequence[Piece]], tuple[Piece, ...]] = tuple,
) -> TableContents:
    """What the table of a space or a model is filled with.

    Args:
        space: A search space, or a model.
        device: The device profile.
        shapes: Shapes of inputs that the model's file leaves open.
        example: Input of a torch module.
        join: Joins segments of the model that are priced as one.
    """
    if is_own_model(space):
        pieces = as_pieces(space, shapes=shapes, batch_size=device.batch_size, example=example)
        return model_contents(join(pieces), device.sweep.networks, whole=pieces)
    require_example([space], example)
    require_no_shapes(shapes)
    made = as_space(space)  # type: ignore[arg-type]
    return space_contents(made, device.sweep.networks)
