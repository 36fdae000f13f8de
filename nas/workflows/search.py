"""A complete search: choose the space, read the recipe, open the run folder, run the searcher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import msgspec

from latbench.blocks import block_key
from latbench.cost import Cost, network_cost
from latbench.errors import InvalidValueError
from latbench.progress import PhaseText, Progress, silent
from latbench.result import Result
from latbench.tables import LatencyTable
from latbench.units import as_latency_ms
from latbench.workflows.table_checks import open_table
from nas.crew.base import CrewSettings
from nas.latency import correction
from nas.latency.measured_rounds import Measure
from nas.latency.priced_space import PricedSpace, labelled_space, space_label
from nas.recipes import Recipe, load_recipe
from nas.searchers import SEARCHERS, Searcher, SearchResult, SearchSettings
from nas.spaces import PLAIN, SearchSpace, Variant
from nas.spaces.identity import digest_of, space_digest
from nas.tasks import TASKS
from nas.training.distributed import workers as processes
from nas.training.run_config import FITNESS, LATENCIES, STRUCTURE
from nas.training.run_files import architecture_file, generator_file
from nas.training.torch_device import TorchDevice
from nas.workflows.confidence import at_confidence, margin_of, without_margin
from nas.workflows.data import AnyData, as_data, data_identity
from nas.workflows.inputs import AnySpace, AnyTable, as_list, as_torch_device, is_efficient
from nas.workflows.runs import run_folder
from nas.workflows.search_limits import AskedLimits, dominated
from nas.workflows.search_space import complete_space


@dataclass(frozen=True, repr=False)
class SearchResults(Result, Sequence[SearchResult]):
    """Results of a search: a sequence of ``SearchResult``, in the order of the targets.

    Attributes:
        found: The architectures with their latencies and scores.
        costs: Multiply-accumulates and parameters of each architecture.
        output: Folder of the run.
        data: Name of the data set.
        task: Name of the task, which defines the meaning of the scores.
        limited: Whether MACs, parameters or memory were limited.
        generator: File of the trained generator; None if none was trained.
        is_front: Whether the targets were spread over the feasible range.
    """

    found: tuple[SearchResult, ...]
    costs: tuple[Cost, ...]
    output: Path
    data: str
    task: str
    limited: bool
    generator: Path | None
    is_front: bool = False

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
        rows = zip(self.found, self.costs, self.dominated, strict=True)
        return {
            "results": [
                result.as_dict()
                | cost.in_millions()
                | ({"dominated": is_beaten} if self.is_front else {})
                for result, cost, is_beaten in rows
            ]
        }

    @property
    def dominated(self) -> list[bool]:
        """Whether another result is better in latency or score, and in neither worse."""
        return dominated(self.found)


# long because it describes every argument of a search
def search(
    space: AnySpace,
    tables: AnyTable | Sequence[AnyTable] = (),
    *,
    data: AnyData,
    output: str | Path,
    targets: str | float | Sequence[str | float] = (),
    max_macs: str | float | None = None,
    max_params: str | float | None = None,
    max_memory: str | float | None = None,
    front: int | None = None,
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
    confidence: float | None = None,
    until_verified: bool = False,
    measured: bool = False,
    torch_device: str | TorchDevice = "auto",
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = silent,
) -> SearchResults:
    """Find the best architectures of a space under budgets.

    The same call with the same output resumes an interrupted search, and ends as an uninterrupted
    one: on a CPU bit for bit, on a GPU up to rounding. Started by ``torchrun``, all processes
    search together. See docs/searches.md for the quality of the searchers, docs/papers.md for
    differences from their papers.

    Args:
        space: A search space; or its name, which tables or the arguments below complete.
        tables: Latency tables of the space, or their paths: one for each device that a target
            holds on, or a single one. A search with limits on MACs or parameters only needs none.
        data: A data set, or its name. The images are divided: some train weights, others train or
            score choices.
        output: Folder of the run, new or to resume.
        targets: Latencies not to exceed, such as ``"0.5ms"``, or in ms; one architecture is found
            for each. A single one is taken as well.
        max_macs: Multiply-accumulates not to exceed at any target, such as ``"30M"``, or a number.
        max_params: Parameters not to exceed at any target, such as ``"3M"``, or a number.
        max_memory: Peak memory of the activations of one image in fp32 not to exceed at any target,
            such as ``"2MB"``, or in bytes. It needs a target or one of the other limits.
        front: Number of targets, instead of ``targets``: they are spread over the feasible range
            with equal ratios.
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
        confidence: Probability with which a network keeps its target on each device, such as 0.95.
            Upper ends of predicted intervals are then below the targets. The tables must be
            calibrated with enough networks.
        until_verified: Measure networks on the first table's device, and correct them until the
            measured latency meets the target with 95 % confidence.
        measured: Another name of ``until_verified``.
        torch_device: Device of training and evaluation: ``auto`` (the CUDA GPU if there is
            one, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Number of workers that score architectures, for searchers that score several at
            once (the recipe's ``at_once``; priors of ``sgnas``). Their number changes no result.
            Each computes with one thread, which can change the last digits of a score against this
            process alone. By default this process, and with ``ray`` all processors of the cluster.
        ray: Address of a Ray cluster that has the workers; ``local`` starts one here, ``auto``
            finds the one that runs here. By default they are processes of this machine.
        progress: Callback with the fraction done and a short description.

    Raises:
        UnknownNameError: There is no such space, searcher, data set, recipe or setting.
        BudgetError: A target or a limit is not feasible; carries the nearest feasible one. Nothing
            was trained or written.
        MismatchError: Space, tables and data do not fit together, or the folder holds another run.
        InvalidValueError: The searcher does not support the request, or there is no budget.
        DivergedError: A loss or a weight is not finite.
    """
    progress(0.0, PhaseText("reading tables", "prepare", 0.0, None))
    opened = [open_table(table) for table in as_list(tables)]
    searched = complete_space(space, opened, input_size, classes, variant)
    family = SEARCHERS[searcher]
    trains_on = as_torch_device(torch_device)
    if confidence is not None and front is None and not as_list(targets):
        raise InvalidValueError("--confidence is that of a latency: give --target as well")
    efficient, margins = is_efficient(widths), [margin_of(each, confidence) for each in opened]
    label = space_label(searched)
    priced = [
        PricedSpace(
            searched if index == 0 or table.space == label else labelled_space(table.space),
            table,
            efficient=efficient,
            margin=margins[index],
        )
        for index, table in enumerate(opened)
    ]
    chosen = _recipe(family, searcher, recipe, settings)
    measure = _measure(opened) if until_verified or measured else None
    progress(0.0, PhaseText("reading data", "prepare", 0.0, None))
    loaded = as_data(data, searched, data_dir=data_dir, images=images)
    targets_ms = [as_latency_ms(target) for target in as_list(targets)]
    most = AskedLimits.of(max_macs, max_params, max_memory)
    within = most.on(searched, priced, generates=family.generates)
    bounded = family.bounded(within.priced, chosen)
    if front is not None:
        targets_ms = within.front(front, targets_ms, bounded)
    config = {
        "command": "search",
        "space": searched.name,
        STRUCTURE: space_digest(searched),
        "searcher": searcher,
        **_prices(searched, opened),
        "targets_ms": targets_ms,
        **most.as_dict(),
        "widths": widths,
        **data_identity(loaded),
        FITNESS: TASKS[loaded.task].fitness_name,
        "epochs": epochs,
        "batch_size": batch_size,
        "recipe": chosen,
        "seed": seed,
    }
    if confidence is not None:
        config["confidence"] = confidence
    with processes(trains_on) as group:
        asked = SearchSettings(
            epochs,
            batch_size,
            seed,
            chosen,
            group,
            within.priced[1:],
            measure,
            within.limits,
            trains_on,
            CrewSettings(workers, ray),
        )
        made = family(within.priced[0] if within.priced else within.space, asked)
        shown = progress if group.leads else silent
        with at_confidence(confidence):
            found = made.search(
                loaded, targets_ms, lambda: run_folder(output, config, group), progress=shown
            )
    if confidence is not None:
        found = [without_margin(each, bounded, confidence) for each in found]
    folder = Path(output)
    generator = generator_file(folder)
    return SearchResults(
        tuple(found),
        tuple(network_cost(searched.lower(result.architecture)) for result in found),
        folder,
        loaded.name,
        loaded.task,
        most != AskedLimits(None, None, None),
        generator if generator.exists() else None,
        front is not None,
    )


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
        LATENCIES: [latencies_digest(table) for table in tables],
    }


def latencies_digest(table: LatencyTable) -> str:
    """A digest of a table's blocks and their latencies, which the price model makes prices of."""
    rows = sorted((block_key(s), e.hot_ms, e.cold_ms) for s, e in table.estimates.items())
    return digest_of(rows)


def _measure(tables: Sequence[LatencyTable]) -> Measure:
    if not tables:
        raise InvalidValueError(
            "--until-verified needs --table, which says on which device to measure"
        )
    return correction.measurer(tables[0])
