"""``latbench prune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latbench.commands.options import (
    COUNT,
    DEVICE,
    DURATION,
    FILE,
    LATENCY,
    example,
    json_option,
    quiet_option,
)
from latbench.commands.output import EXIT_FAILED_CHECK, emit, progress
from nas.commands.options import training_options

if TYPE_CHECKING:
    from latbench.device import DeviceProfile


@click.command(
    epilog=example(
        "latbench prune mobilenet_v2 --target 6ms --table t.sqlite --data imagenet -o runs/p",
        "latbench prune mobilenet_v2 --weights w.safetensors --target 6ms --table t.sqlite"
        " --data imagenet -o runs/p",
    )
)
@click.argument("model")
@click.option(
    "--weights",
    default="DEFAULT",
    show_default=True,
    metavar="FILE|NAME",
    help="Its trained weights: a file of safetensors, a state dict of torch.save, or the name of "
    "weights that torchvision publishes and downloads.",
)
@click.option("--target", type=LATENCY, required=True, help="Largest latency, such as 8ms.")
@click.option(
    "--table",
    type=FILE,
    required=True,
    metavar="TABLE",
    help="Table of the network's latency at all widths, new or to go on with; it serves every "
    "target.",
)
@click.option(
    "--device",
    type=DEVICE,
    default="cpu-onnxruntime",
    show_default=True,
    metavar="DEVICE",
    help="Device profile to measure on: a name that `latbench devices` lists, or a file.",
)
@click.option(
    "--input-size",
    type=COUNT,
    default=224,
    show_default=True,
    metavar="PIXELS",
    help="Side of the images.",
)
@click.option(
    "--time-limit",
    type=DURATION,
    default="10min",
    show_default=True,
    help="How long to measure widths, if the table does not have them.",
)
@training_options(
    epochs="Number of epochs of the fine-tuning, instead of the recipe's.  [default: 10]",
    seed="Seed of the order of images, instead of the recipe's.  [default: 0]",
)
@quiet_option
@json_option
def prune(
    model: str,
    weights: str,
    target: float,
    table: Path,
    device: DeviceProfile,
    input_size: int,
    time_limit: float,
    data: str,
    data_dir: Path | None,
    images: int | None,
    recipe: str | None,
    settings: tuple[str, ...],
    epochs: int | None,
    batch_size: int | None,
    seed: int | None,
    torch_device: str,
    output: Path,
    as_json: bool,
) -> None:
    """Remove channels of a trained network until it meets a latency.

    MODEL is the name of a network of torchvision, such as mobilenet_v2. Other torch modules are
    pruned from Python, by `nas.prune`.

    The network's segments are measured at several widths. The widths that lose least importance
    under the target are chosen exactly, the pruned network is measured and fine-tuned, also to give
    the original's outputs, and written as ONNX file into the run's folder. Exits with 1 if the
    target is missed. Repeat the command to resume after an interruption.
    """
    import nas
    from latbench.lazy import needing
    from nas.report.metrics import show_pruning

    with needing("nas"):
        from nas.pruning.torchvision_networks import load_network

    with progress("pruning") as shown:
        found = nas.prune(
            load_network(model, weights),
            data,
            target=target,
            table=table,
            output=output,
            device=device,
            input_size=input_size,
            time_limit=time_limit,
            recipe=recipe,
            settings=settings,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            data_dir=data_dir,
            images=images,
            torch_device=torch_device,
            progress=shown,
        )
    emit(found.as_dict(), as_json=as_json, render=lambda: show_pruning(found))
    if found.status != "met":
        sys.exit(EXIT_FAILED_CHECK)
