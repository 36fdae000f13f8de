"""``latbench bench``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import (
    DEVICE,
    DURATION,
    FILE,
    PERCENT,
    example,
    json_option,
    quiet_option,
    written_file,
)
from latbench.commands.output import EXIT_FAILED_CHECK, after_result, emit, progress
from latbench.errors import LatbenchError
from latbench.progress import Phase, Phases
from nas.commands.options import model_options

if TYPE_CHECKING:
    from latbench.device import DeviceProfile
    from latbench.workflows.bench import Bench


@click.command(
    epilog=example(
        "latbench bench before.onnx after.onnx --device cpu-onnxruntime",
        "latbench bench model.onnx --device cpu-openvino --shape input=1x3x224x224",
        "latbench bench main.onnx branch.onnx --fail-if-slower 3% --junit latency.xml",
    )
)
@click.argument("models", nargs=-1, required=True, type=FILE)
@click.option(
    "--device",
    "devices",
    type=DEVICE,
    multiple=True,
    default=["cpu-onnxruntime"],
    show_default=True,
    metavar="DEVICE",
    help="Device profile to measure on: a name that `latbench devices` lists, or a file; repeat it "
    "for several.",
)
@model_options
@click.option(
    "--time-limit",
    type=DURATION,
    default="60s",
    show_default=True,
    help="How long each device measures, unless intervals are within 1 % before.",
)
@click.option(
    "--fail-if-slower",
    "slower",
    type=PERCENT,
    metavar="PERCENT",
    help="Exit with 1 if a network is slower than the first by more than this.  [default: never]",
)
@written_file("--junit", help="File for the verdicts as JUnit XML.")
@quiet_option
@json_option
def bench(
    models: tuple[Path, ...],
    devices: tuple[DeviceProfile, ...],
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    batch_size: int | None,
    time_limit: float,
    slower: float | None,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Measure networks side by side.

    MODELS are ONNX files, or architectures as JSON files. All are measured in one shuffled sweep
    and compared with the first: SAME, FASTER, SLOWER, or UNSURE if the machine is too noisy to
    say. A small change counts as SAME; --fail-if-slower says how small.
    """
    import nas
    from latbench.profilers import make_profiler
    from latbench.report.comparisons import show_bench
    from latbench.workflows.bench import TOLERANCE

    for device in devices[1:]:
        make_profiler(device)  # it can run here; said before the first one is measured
    compared: list[Bench] = []
    failed: BaseException | None = None
    parts = [Phase(f"{n}. {each.name}", seconds=time_limit) for n, each in enumerate(devices, 1)]
    with progress("measuring") as shown, Phases(shown, parts) as phases:
        for device, part in zip(devices, parts, strict=True):
            try:
                found = nas.bench(
                    models,
                    device,
                    shapes=dict(shapes),
                    batch_size=batch_size,
                    time_limit=time_limit,
                    progress=phases[part.name],
                    tolerance=TOLERANCE if slower is None else slower,
                )
            except (LatbenchError, OSError, KeyboardInterrupt) as error:
                if not compared:
                    raise
                failed = error
                break
            compared.append(found)
    result = [found.as_dict() for found in compared]
    emit(
        {"devices": result} if len(devices) > 1 else result[0],
        as_json=as_json,
        render=lambda: show_bench(compared),
    )
    with after_result():  # which neither a later device nor a file may lose
        if junit is not None:
            from latbench.report.junit import write_junit

            write_junit(junit, compared)
        if failed is not None:
            raise failed
    if slower is not None and not all(found.passed for found in compared):
        sys.exit(EXIT_FAILED_CHECK)
