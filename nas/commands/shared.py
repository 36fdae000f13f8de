"""What commands on architectures share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench.errors import InvalidFileError, InvalidValueError, MismatchError
from nas.commands.options import needs_torch

if TYPE_CHECKING:
    from latbench.registry import Registry
    from latbench.tables import LatencyTable
    from nas.data.images import ImageData
    from nas.latency.priced_space import PricedSpace
    from nas.recipes import Recipe
    from nas.searchers import Searcher
    from nas.spaces import Architecture, SearchSpace
    from nas.training.distributed import Workers
    from nas.training.run_folder import RunFolder


def search_recipe(
    family: type[Searcher], searcher: str, name: str | None, changes: Sequence[str]
) -> Recipe | None:
    """The recipe of a searcher; None for one that has nothing to set."""
    from nas.recipes import load_recipe

    if family.recipe_kind is not None:
        return load_recipe(family.recipe_kind, name, changes)
    if name is None and not changes:
        return None
    raise InvalidValueError(f"{searcher} has no recipe: leave out --recipe and --set")


def check_tables(
    tables: Iterable[LatencyTable],
    asked: SearchSpace,
    *,
    input_size: int | None,
    classes: int | None,
) -> None:
    """Refuse tables of another space than the one that was asked for."""
    for table in tables:
        label = table.space
        if label.name != asked.name:
            raise MismatchError(f"{table.path} prices {label}, not {asked.name}")
        for option, wanted, has in (
            ("--input-size", input_size, label.input_size),
            ("--classes", classes, label.classes),
        ):
            if wanted not in (None, has):
                raise MismatchError(
                    f"{table.path} prices {label}, not {option} {wanted}: leave the option out, "
                    "or profile that"
                )


def open_table(path: Path) -> LatencyTable:
    """A latency table, opened to read."""
    from latbench.tables import LatencyTable

    return LatencyTable.open(path)


def priced_space(opened: LatencyTable, widths: str) -> PricedSpace:
    """The space that a table was filled for, with its prices."""
    from nas.latency.priced_space import PricedSpace, labelled_space

    return PricedSpace(labelled_space(opened.space), opened, efficient=widths == "efficient")


def searchers() -> Registry[type[Searcher]]:
    """Searchers by name."""
    with needs_torch():
        from nas.searchers import SEARCHERS
    return SEARCHERS


def load_images(
    name: str, folder: Path | None, input_size: int, classes: int, images: int | None
) -> ImageData:
    """A data set at an input size, or so many of its training images."""
    from nas.data import load_data

    loaded = load_data(name, input_size=input_size, classes=classes, data_dir=folder)
    return loaded if images is None else loaded.subset(images, seed=0)


def run_folder(path: Path, config: dict[str, Any], group: Workers | None = None) -> RunFolder:
    """The folder of a run; of processes that train together the first makes it."""
    from nas.training.run_folder import RunFolder

    if group is not None and not group.leads:
        group.wait()
    folder = RunFolder(path, config)
    if group is not None and group.leads:
        group.wait()
    return folder


@contextmanager
def silent() -> Iterator[Callable[[float, str], None]]:
    """Progress that nobody sees."""
    yield lambda fraction, words: None


def trained_architecture(run: Path) -> tuple[Architecture, SearchSpace]:
    """The architecture that a run folder trains, and its space."""
    with needs_torch():
        from nas.training.run_folder import read_config
    from nas.spaces import space_of
    from nas.spaces.architecture import parse_architecture

    config = read_config(run)
    if "architecture" not in config:
        raise InvalidFileError(f"{run} holds a {config.get('command')} run, not a training")
    text = json.dumps(config["architecture"], allow_nan=False)
    arch = parse_architecture(text, source=f"{run}/config.json")
    return arch, space_of(arch)


def metrics_in_words(score: Mapping[str, float]) -> str:
    """The final metrics of a network in words; all but thresholds are fractions."""
    names = {"top1": "top-1", "top5": "top-5"}
    return ", ".join(
        f"{names.get(name, name)} {value:{'.2f' if name == 'threshold' else '.2%'}}"
        for name, value in score.items()
    )


def images_in_words(batch_size: int) -> str:
    """A batch in words."""
    return "one image" if batch_size == 1 else f"a batch of {batch_size}"
