"""``latbench profile``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from latbench.commands.options import (
    DEVICE,
    DURATION,
    FILE,
    FILE_OR_FOLDER,
    example,
    json_option,
    output_file,
    quiet_option,
)
from latbench.commands.output import (
    EXIT_FAILED_CHECK,
    EXIT_INTERRUPTED,
    emit,
    joint_progress,
    progress,
)
from latbench.errors import InvalidValueError
from nas.commands.options import SPACE_OR_MODEL, model_options, space_options

if TYPE_CHECKING:
    from latbench.device import DeviceProfile
    from nas.spaces import SearchSpace


@click.command(
    epilog=example(
        "latbench profile cpu-onnxruntime tfnas --input-size 32 --classes 10 -o t.sqlite",
        "latbench profile cpu-onnxruntime tfnas --plan",
        "latbench profile cpu-onnxruntime model.onnx --time-limit 2min -o t.sqlite",
        "latbench profile pi5 jetson tfnas --input-size 32 --classes 10 -o tables",
    )
)
@click.argument("devices", type=DEVICE, nargs=-1, metavar="DEVICE...")
@click.argument("space", type=SPACE_OR_MODEL)
@output_file(
    "the latency table, new or to resume; of several devices a folder",
    required=False,
    kind=FILE_OR_FOLDER,
)
@space_options
@model_options
@click.option(
    "--time-limit",
    type=DURATION,
    default="20min",
    show_default=True,
    help="Time to measure, such as 150s, 8min or 2h. Every block gets a price in any case.",
)
@click.option(
    "--from",
    "source",
    type=FILE,
    metavar="TABLE",
    help="Predict most entries from another device's table of SPACE, and measure few.",
)
@click.option(
    "--plan", is_flag=True, help="Only print how many blocks, minutes and MiB it would take."
)
@quiet_option
@json_option
def profile(
    devices: tuple[DeviceProfile, ...],
    space: str | Path,
    output: Path | None,
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: Literal["relu6", "hswish"],
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    batch_size: int | None,
    time_limit: float,
    source: Path | None,
    plan: bool,
    as_json: bool,
) -> None:
    """Measure a device into a latency table.

    DEVICE is a name that `latbench devices` lists, or the file of a device profile. Its blocks are
    those of the search space SPACE, or the segments of MODEL.onnx. Stop it with Ctrl-C; repeat the
    command to resume. Several devices elsewhere are measured at once.
    """
    from latbench.device_files import as_device

    if not devices:
        raise click.UsageError(
            "Missing DEVICE or SPACE|MODEL.onnx: both are needed, in this order."
        )
    made = _made(space, input_size, classes, se, activation)
    if len(devices) > 1:
        if plan or source is not None:
            raise InvalidValueError("--plan and --from are for one device: give one")
        if output is None:
            raise InvalidValueError("several devices need -o FOLDER, for a table of each")
        _fill_all(devices, made, output, dict(shapes), batch_size, time_limit, as_json=as_json)
        return
    device = as_device(devices[0], batch_size=batch_size)
    if plan and source is not None:
        raise InvalidValueError("--plan is for a profiling without --from: leave out one of them")
    if plan:
        _plan(device, made, dict(shapes), time_limit, as_json=as_json)
        return
    if output is None:
        raise InvalidValueError("profile needs -o TABLE, the latency table to fill or resume")
    if output.is_dir():
        raise InvalidValueError(f"{output} is a folder: give the file of one device's table")
    _fill(device, made, output, dict(shapes), time_limit, source, as_json=as_json)


def _made(
    space: str | Path,
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: Literal["relu6", "hswish"],
) -> SearchSpace | Path:
    """The search space of a name and its options, or the path of a model."""
    import nas

    variant = nas.Variant(se, activation)
    if not isinstance(space, Path):
        return nas.make_space(space, input_size, classes, variant)
    if (input_size, classes, variant) != (None, None, nas.Variant()):
        raise InvalidValueError(
            "--input-size, --classes, --se and --activation complete the name of a search space: "
            "leave them out for an ONNX file"
        )
    return space


def _plan(
    device: DeviceProfile,
    space: SearchSpace | Path,
    shapes: dict[str, tuple[int, ...]],
    time_limit: float,
    *,
    as_json: bool,
) -> None:
    """Print what a profiling would take."""
    import nas
    from latbench.report.results import show_forecast

    with progress("planning") as shown:
        expected = nas.forecast(device, space, shapes=shapes, time_limit=time_limit, progress=shown)
    emit(expected.as_dict(), as_json=as_json, render=lambda: show_forecast(expected))


def _fill(
    device: DeviceProfile,
    space: SearchSpace | Path,
    output: Path,
    shapes: dict[str, tuple[int, ...]],
    time_limit: float,
    source: Path | None,
    *,
    as_json: bool,
) -> None:
    """Fill a table, print the result, and exit if it was interrupted."""
    import nas
    from latbench.report.results import show_profiled

    with progress("profiling" if source is None else "transferring") as shown:
        table = nas.profile(
            device,
            space,
            output,
            shapes=shapes,
            time_limit=time_limit,
            source=source,
            progress=shown,
        )
    reached = table.result
    emit(reached.as_dict(), as_json=as_json, render=lambda: show_profiled(reached, output))
    if reached.interrupted:
        sys.exit(EXIT_INTERRUPTED)


def _fill_all(
    devices: Sequence[DeviceProfile],
    space: SearchSpace | Path,
    output: Path,
    shapes: dict[str, tuple[int, ...]],
    batch_size: int | None,
    time_limit: float,
    *,
    as_json: bool,
) -> None:
    """Fill a table of each device; exit if they were interrupted, or with 1 if one failed."""
    import nas
    from nas.report.profiles import show_profiled_devices

    if output.is_file():
        raise InvalidValueError(
            f"{output} is a file: several devices need a folder for their tables"
        )
    with joint_progress("profiling", [device.name for device in devices]) as progress_of:
        found = nas.profile_devices(
            devices,
            space,
            output,
            shapes=shapes,
            batch_size=batch_size,
            time_limit=time_limit,
            progress_of=progress_of,
        )
    rows = [each.as_dict() for each in found]
    emit({"devices": rows}, as_json=as_json, render=lambda: show_profiled_devices(found))
    if any(each.interrupted for each in found):
        sys.exit(EXIT_INTERRUPTED)
    if any(each.error for each in found):
        sys.exit(EXIT_FAILED_CHECK)
