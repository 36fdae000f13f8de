"""Options of commands on architectures, said once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import click

from latbench.commands.options import FOLDER, Named, named
from latbench.errors import MissingExtraError


def widths_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Which widths take part."""
    return click.option(
        "--widths",
        type=named("widths", "any", "efficient"),
        default=default,
        show_default=True,
        help="Every priced width, or only those that no wider one matches in latency.",
    )


def space_options(command: Callable[..., None]) -> Callable[..., None]:
    """What makes a search space of a name."""
    for option in (
        click.option("--activation", type=named("activation", "relu6", "hswish"), default="relu6"),
        click.option("--se", is_flag=True, help="Squeeze-excite, in spaces that leave it open."),
        click.option("--classes", type=int),
        click.option("--input-size", type=int, help="Side of the input image in pixels."),
    ):
        command = option(command)
    return command


recipe_option = click.option(
    "--recipe", metavar="NAME|FILE", help="Shipped recipe or TOML file, instead of the defaults."
)


set_option = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe."
)


data_option = click.option(
    "--data", type=Named("data set", lambda: list(datasets())), required=True
)


data_dir_option = click.option("--data-dir", type=FOLDER, help="Where the data set's files are.")


run_option = click.option(
    "-o", "--output", type=FOLDER, required=True, help="Folder of the run, new or to go on with."
)


@contextmanager
def needs_torch() -> Iterator[None]:
    """Imports that fail for want of torch say which extra brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "nas") from error


def component_kinds() -> Iterable[str]:
    """Kinds of components that ``latbench new`` writes."""
    from nas.scaffold import KINDS

    return KINDS


def datasets() -> Iterable[str]:
    """Names of data sets."""
    with needs_torch():
        from nas.data import DATASETS
    return DATASETS
