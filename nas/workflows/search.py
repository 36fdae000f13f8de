"""A complete search: choose the space, read the recipe, open the run folder, run the searcher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import msgspec

from latbench.cost import Cost, network_cost
from latbench.errors import InvalidValueError, MismatchError
from latbench.progress import Progress, silent
from latbench.result import Result
from latbench.tables import LatencyTable
from latbench.units import as_count, as_latency_ms
from latbench.workflows.table_checks import open_table
from nas.latency import correction
from nas.latency.correction import Measure
from nas.latency.priced_space import PricedSpace, labelled_space, space_label
from nas.optimize.constraints import COUNTED, Count, Limit
from nas.recipes import Recipe, load_recipe
from nas.searchers import SEARCHERS, Searcher, SearchResult, SearchSettings
from nas.searchers.base import architecture_file, generator_file
from nas.spaces import PLAIN, SearchSpace, Variant, make_space
from nas.training.distributed import workers
from nas.training.torch_device import TorchDevice
from nas.workflows.data import AnyData, as_data
from nas.workflows.inputs import AnySpace, AnyTable, as_list, as_torch_device, priced_by
from nas.workflows.runs import run_folder


@dataclass(frozen=True, repr=False)
class SearchResults(Result, Sequence[SearchResult]):
    """Results of a search: a sequence of ``SearchResult``, in the order of the targets.

    Attributes:
        found: The architectures with their latencies and scores.
        costs: Multiply-accumulates and parameters of each architecture.
        output: Folder of the run.
        data: Name of the data set.
        task: Name of the task, which defines the meaning of the scores.
        limited: Whether MACs or parameters were limited.
        generator: File of the trained generator; None if none was trained.
    """

    found: tuple[SearchResult, ...]
    costs: tuple[Cost, ...]
    output: Path
    data: str
    task: str
    limited: bool
    generator: Path | None

    @overload
    def __getitem__(self, index: int) -> SearchResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[SearchResult, ...]: ...
    def __getitem__(self, index: int | slice) -> SearchResult | tuple[SearchResult, ...]:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[SearchResult]:
        return iter(self.found)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the architectures."""
        return tuple(architecture_file(self.output, result.target_ms) for result in self.found)

    def as_dict(self) -> dict[str, Any]:
        """All results as plain JSON values."""
        rows = zip(self.found, self.costs, strict=True)
        return {"results": [result.as_dict() | cost.in_millions() for result, cost in rows]}


def choose_space(
    name: str,
    tables: AnyTable | Sequence[AnyTable] = (),
    *,
    input_size: int | None = None,
    classes: int | None = None,
    variant: Variant = PLAIN,
) -> SearchSpace:
    """The space of a search: that of the tables, or the requested one if there are no tables.

    Args:
        name: Name of the space.
        tables: Latency tables of the space, or their paths. They define input size, classes and
            variant.
        input_size: Side of the input image in pixels; must match the tables if there are any.
        classes: Number of classes; must match the tables if there are any.
        variant: Settings of all blocks, for spaces that leave them open; must match the tables.

    Raises:
        UnknownNameError: There is no such space.
        MismatchError: A table is for another space, input size or number of classes.
    """
    asked = make_space(name, input_size, classes, variant)
    opened = [open_table(table) for table in as_list(tables)]
    for table in opened:
        label = table.space
        if label.name != asked.name:
            raise MismatchError(f"{table.path} prices {label}, not {asked.name}")
        for option, wanted, has in (
            ("--input-size", input_size, label.input_size),
            ("--classes", classes, label.classes),
            ("--se", variant.se or None, label.se),
            ("--activation", _asked_activation(variant), label.activation),
        ):
            if wanted not in (None, has):
                given = option if wanted is True else f"{option} {wanted}"
                raise MismatchError(
                    f"{table.path} prices {label}, not {given}: leave the option out, or profile "
                    "that"
                )
    return labelled_space(opened[0].space) if opened else asked


def _asked_activation(variant: Variant) -> str | None:
    """The activation if it is not the default; None otherwise: it may not have been requested."""
    return variant.activation if variant.activation != PLAIN.activation else None


def search(
    space: AnySpace,
    tables: AnyTable | Sequence[AnyTable] = (),
    *,
    data: AnyData,
    output: str | Path,
    targets: str | float | Sequence[str | float] = (),
    max_macs: str | float | None = None,
    max_params: str | float | None = None,
    searcher: str = "tfnas",
    widths: str = "efficient",
    input_size: int | None = None,
    classes: int | None = None,
    variant: Variant = PLAIN,
    data_dir: str | Path | None = None,
    images: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    recipe: str | Path | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    measured: bool = False,
    torch_device: str | TorchDevice = "auto",
    progress: Progress = silent,
) -> SearchResults:
    """Find the best architectures of a space under budgets.

    The same call with the same output resumes an interrupted search, and ends bit-identical to an
    uninterrupted one. Started by ``torchrun``, all processes search together. See docs/search.md
    for the quality of the searchers, docs/papers.md for differences from their papers.

    Long because it describes every argument of a search.

    Args:
        space: A search space; or its name, which tables or the arguments below complete.
        tables: Latency tables of the space, or their paths: one for each device that a target
            holds on, or a single one. A search with limits on MACs or parameters only needs none.
        data: A data set, or its name. The images are divided: some train weights, others train or
            score choices.
        output: Folder of the run, new or to resume.
        targets: Latencies not to exceed, such as ``"0.5ms"``, or in ms; one architecture is found
            for each. A single one is taken as well.
        max_macs: Multiply-accumulates not to exceed at any target, such as ``"30M"``, or in ones.
        max_params: Parameters not to exceed at any target, such as ``"3M"``, or in ones.
        searcher: Name of the search algorithm, one of ``nas.searchers.SEARCHERS``.
        widths: ``efficient`` allows only efficient widths; ``any`` allows every width with a price.
        input_size: Side of the input image in pixels, for a space given by name; must match the
            tables if there are any.
        classes: Number of classes, likewise.
        variant: Settings of all blocks, likewise.
        data_dir: Folder of a named data set's files.
        images: Number of training images to draw; None takes all.
        epochs: Number of epochs; None keeps the recipe's.
        batch_size: Images a step; None keeps the recipe's.
        recipe: Name of a shipped recipe or path of a TOML file; None uses the searcher's defaults.
        settings: Single settings of the recipe, such as ``["strategy=fair"]``.
        seed: Seed of weights, paths and the order of images.
        measured: Measure each network found on the first table's device, and correct it until its
            measured latency meets the target.
        torch_device: Device of training and evaluation: ``auto`` (the CUDA GPU if there is
            one, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        progress: Callback with the fraction done and a short description.

    Raises:
        UnknownNameError: There is no such space, searcher, data set, recipe or setting.
        BudgetError: A target or a limit is not feasible; carries the nearest feasible one. Nothing
            was trained or written.
        MismatchError: Space, tables and data do not fit together, or the folder holds another run.
        InvalidValueError: The searcher does not support the request, or there is no budget.
        DivergedError: A loss or a weight is not finite.
    """
    opened = [open_table(table) for table in as_list(tables)]
    searched = _complete(space, opened, input_size, classes, variant)
    family = SEARCHERS[searcher]
    trains_on = as_torch_device(torch_device)
    priced = [PricedSpace(searched, table, efficient=widths == "efficient") for table in opened[:1]]
    priced += [priced_by(table, widths) for table in opened[1:]]
    chosen = _recipe(family, searcher, recipe, settings)
    measure = _measure(opened) if measured else None
    loaded = as_data(data, searched, data_dir=data_dir, images=images)
    targets_ms = [as_latency_ms(target) for target in as_list(targets)]
    budgets = [None if most is None else as_count(most) for most in (max_macs, max_params)]
    config = {
        "command": "search",
        "space": searched.name,
        "searcher": searcher,
        **_prices(searched, opened),
        "targets_ms": targets_ms,
        "max_macs": budgets[0],
        "max_params": budgets[1],
        "widths": widths,
        "data": loaded.name,
        "images": loaded.images,
        "epochs": epochs,
        "batch_size": batch_size,
        "recipe": msgspec.to_builtins(chosen),
        "seed": seed,
    }
    limits = _limits(searched, budgets)
    with workers(trains_on) as group:
        asked = SearchSettings(
            epochs,
            batch_size,
            seed,
            chosen,
            group,
            tuple(priced[1:]),
            measure,
            limits,
            trains_on,
        )
        made = family(priced[0] if priced else searched, asked)
        shown = progress if group.leads else silent
        found = made.search(
            loaded, targets_ms, lambda: run_folder(output, config, group), progress=shown
        )
    folder = Path(output)
    generator = generator_file(folder)
    return SearchResults(
        tuple(found),
        tuple(network_cost(searched.lower(result.architecture)) for result in found),
        folder,
        loaded.name,
        loaded.task,
        bool(limits),
        generator if generator.exists() else None,
    )


def _complete(
    space: AnySpace,
    tables: Sequence[LatencyTable],
    input_size: int | None,
    classes: int | None,
    variant: Variant,
) -> SearchSpace:
    """The space of a search; a name is completed by the tables or by the other arguments."""
    if isinstance(space, str):
        return choose_space(space, tables, input_size=input_size, classes=classes, variant=variant)
    if (input_size, classes, variant) != (None, None, PLAIN):
        raise InvalidValueError(
            f"{space.name} is a complete space: leave out input_size, classes and variant, or "
            "give only its name"
        )
    return space


def _recipe(
    family: type[Searcher], searcher: str, name: str | Path | None, settings: Sequence[str]
) -> Recipe | None:
    """The recipe of a searcher; None for a searcher without settings."""
    if family.recipe_kind is not None:
        return load_recipe(family.recipe_kind, name, settings)
    if name is None and not settings:
        return None
    raise InvalidValueError(f"{searcher} has no recipe: leave out --recipe and --set")


def _prices(space: SearchSpace, tables: Sequence[LatencyTable]) -> dict[str, Any]:
    """The part of a run's configuration that says how networks are priced."""
    devices = [{"device": table.device.name, "space": str(table.space)} for table in tables]
    return {
        "tables": devices or [{"space": str(space_label(space))}],
        "prices": [msgspec.to_builtins(table.price_model) for table in tables],
    }


def _limits(space: SearchSpace, budgets: Sequence[float | None]) -> tuple[Limit, ...]:
    """Limits for the budgets that are given, in the order of ``COUNTED``."""
    return tuple(
        Limit(Count(space, kind), most)
        for kind, most in zip(COUNTED, budgets, strict=True)
        if most is not None
    )


def _measure(tables: Sequence[LatencyTable]) -> Measure:
    if not tables:
        raise InvalidValueError("--measured needs --table, which says on which device to measure")
    return correction.measurer(tables[0])
