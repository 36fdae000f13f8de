"""Options shared by the commands of ``nas``, and the types of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from latbench.commands.options import (
    BATCH,
    COUNT,
    FILE,
    FOLDER,
    LATENCY,
    SEED,
    SHAPE,
    Decorator,
    FiniteRange,
    Named,
    named,
)
from latbench.files import is_onnx_file


def _spaces() -> Iterable[str]:
    from nas.spaces import SPACES

    return SPACES


def _searchers() -> Iterable[str]:
    from latbench.lazy import needing

    with needing("nas"):
        from nas.searchers import SEARCHERS
    return SEARCHERS


def _data_sets() -> Iterable[str]:
    from latbench.lazy import needing

    with needing("nas"):
        from nas.data import DATASETS
    return DATASETS


def _kinds() -> Iterable[str]:
    from nas.scaffold import KINDS

    return KINDS


def _formats() -> Iterable[str]:
    from latbench.tables.importers import IMPORTERS

    return IMPORTERS


SPACE = Named("search space", _spaces, "SPACE")
SEARCHER = Named("searcher", _searchers, "NAME")
DATA_SET = Named("data set", _data_sets, "NAME")
KIND = Named("kind", _kinds, "KIND")
FORMAT = Named("table format", _formats, "FORMAT")
ACTIVATION = named("activation", "relu6", "hswish")


class SpaceOrModel(Named):
    """The name of a search space, or the path of an ONNX file."""

    def __init__(self) -> None:
        super().__init__("search space", _spaces, "SPACE|MODEL.onnx")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_onnx_file(Path(str(value))):
            return FILE.convert(value, param, ctx)
        return super().convert(value, param, ctx)


SPACE_OR_MODEL = SpaceOrModel()

shape_option = click.option(
    "--shape",
    "shapes",
    type=SHAPE,
    multiple=True,
    metavar="NAME=1x3x224x224",
    help="Shape of an input that an ONNX file leaves open; repeat it for several inputs.",
)


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options ``--shape`` and ``--batch-size`` of ONNX files, as ``shapes``, ``batch_size``."""
    command = click.option(
        "--batch-size",
        type=COUNT,
        metavar="N",
        help="Images a call, for ONNX files that leave it open and for architectures.",
    )(command)
    return shape_option(command)


def widths_option(default: str) -> Decorator:
    """Option for the widths that may be used."""
    return click.option(
        "--widths",
        type=named("widths", "any", "efficient"),
        default=default,
        show_default=True,
        help="Use any width with a price, or only efficient ones: no wider width is as fast.",
    )


def until_verified_option(ends: str) -> Decorator:
    """The option ``--until-verified``, also known as ``--measured``; ``ends`` says what it does."""
    return click.option(
        "--until-verified",
        "--measured",
        "until_verified",
        is_flag=True,
        help=f"{ends} until the measured latency meets the target with 95 % confidence. The exit "
        "code is 1 if it does not. --measured is another name of the option.",
    )


confidence_option = click.option(
    "--confidence",
    type=FiniteRange(min=0.5, max=1, max_open=True),
    metavar="P",
    help="Probability that a network keeps its target, such as 0.95: the upper end of the "
    "predicted interval is then below the target. The table must be calibrated.",
)


def se_option(where: str = "") -> Decorator:
    """Option for squeeze-excite in every block."""
    return click.option("--se", is_flag=True, help=f"Put squeeze-excite in every block{where}.")


def targets_option(use: str) -> Decorator:
    """Option for latencies not to exceed, with a sentence about the use of several."""
    return click.option(
        "--target",
        "targets",
        type=LATENCY,
        multiple=True,
        help=f"Largest latency, such as 15ms. {use}",
    )


def space_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that complete the name of a search space."""
    for option in (
        click.option(
            "--activation",
            type=ACTIVATION,
            default="relu6",
            show_default=True,
            help="Activation of every block, in spaces where it can be chosen.",
        ),
        se_option(", in spaces where it can be chosen"),
        click.option(
            "--classes",
            type=int,
            metavar="N",
            help="Number of classes.  [default: the space's published one]",
        ),
        click.option(
            "--input-size",
            type=int,
            metavar="PIXELS",
            help="Side of the input image.  [default: the space's published one]",
        ),
    ):
        command = option(command)
    return command


recipe_option = click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Shipped recipe, or a TOML file.  [default: the defaults of the command's recipe]",
)


set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting of the recipe. The option can be repeated.",
)


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options for the data set."""
    for option in (
        click.option(
            "--data-dir",
            type=FOLDER,
            metavar="FOLDER",
            help="Folder of the data set's files, for sets that are not downloaded.",
        ),
        click.option(
            "--data",
            type=DATA_SET,
            required=True,
            help="Data set: digits, fashion-mnist, cifar10, cifar100, imagenet or faces.",
        ),
    ):
        command = option(command)
    return command


def length_options(epochs: str, batch_size: str) -> Decorator:
    """Options for the length of a training, with their help texts."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option("--batch-size", type=BATCH, metavar="N", help=batch_size)(command)
        return click.option("--epochs", type=COUNT, metavar="N", help=epochs)(command)

    return decorate


images_option = click.option(
    "--images",
    type=COUNT,
    metavar="N",
    help="Number of training images to draw at random.  [default: all]",
)


torch_device_option = click.option(
    "--torch-device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Device of training and evaluation: auto (the CUDA GPU if there is one, else the CPU), "
    "cpu, cuda, cuda:1 or mps.",
)


def crew_options(use: str) -> Decorator:
    """The options ``--workers`` and ``--ray``; ``use`` says what workers do."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option(
            "--ray",
            metavar="ADDRESS",
            help="Ray cluster that has the workers, instead of processes of this machine: its "
            "address, `local` to start one here, or `auto`.",
        )(command)
        return click.option(
            "--workers",
            type=COUNT,
            help=f"Workers that {use}. Their number changes no result.  [default: this process; "
            "with --ray all processors]",
        )(command)

    return decorate


def folder_option(
    of: str, *, metavar: str = "FOLDER", required: bool = False, default: str | None = None
) -> Decorator:
    """Option for the folder that a command writes into."""
    shown: dict[str, Any] = {} if default is None else {"default": default, "show_default": True}
    return click.option(
        "-o",
        "--output",
        type=FOLDER,
        required=required,
        metavar=metavar,
        help=f"Folder {of}.",
        **shown,  # a default of None would be a value, and nothing would be required
    )


run_option = folder_option("of the run, new or to resume", metavar="RUN", required=True)


def training_options(*, epochs: str, seed: str) -> Decorator:
    """Options of a training of one network, with help texts about its length and its seed."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options: tuple[Decorator, ...] = (
            data_options,
            images_option,
            recipe_option,
            set_option,
            length_options(
                epochs=epochs,
                batch_size="Images a step, instead of the recipe's.  [default: 64]",
            ),
            click.option("--seed", type=SEED, metavar="N", help=seed),
            torch_device_option,
            run_option,
        )
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
