"""Base class of searchers, and their settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from latbench.errors import InvalidValueError, MismatchError
from latbench.progress import Progress, silent
from nas.crew.base import NO_CREW, CrewSettings
from nas.data.fit import divided
from nas.data.images import ImageData
from nas.latency.feasible_range import check_feasible
from nas.latency.measured_rounds import Measure
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import Limit
from nas.recipes import Recipe
from nas.searchers.results import SearchResult
from nas.spaces import SearchSpace
from nas.training.criterion import check_batches, criterion_of
from nas.training.distributed import ALONE, Workers
from nas.training.recipe import SearchRecipe
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU, TorchDevice

R = TypeVar("R", bound=SearchRecipe)


@dataclass(frozen=True)
class SearchSettings:
    """Settings that all searchers share.

    Attributes:
        epochs: Number of epochs; None takes that of the recipe.
        batch_size: Images a step; None takes that of the recipe.
        seed: Seed of weights, paths and the order of images.
        recipe: Constants and variants of the algorithm, of the searcher's ``recipe_kind``; None
            takes the defaults.
        workers: The processes that search together.
        others: The space with the prices of further devices. A target holds on all devices. For
            ``sgnas`` it holds on the first device, and the generator learns the others.
        measure: Measures networks on the device, so that measured latencies meet the targets. None
            uses only predicted latencies.
        limits: Limits of MACs and parameters that hold in addition to each target, or alone if
            there are no targets.
        torch_device: Where the search computes.
        crew: Workers that score architectures. They change no result.
    """

    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    recipe: Recipe | None = None
    workers: Workers = ALONE
    others: tuple[PricedSpace, ...] = ()
    measure: Measure | None = None
    limits: tuple[Limit, ...] = ()
    torch_device: TorchDevice = CPU
    crew: CrewSettings = NO_CREW


def recipe_of(settings: SearchSettings, kind: type[R]) -> R:
    """The recipe of the settings, or the defaults of its kind, with the settings' epochs."""
    recipe = settings.recipe or kind()  # type: ignore[call-arg]  # all fields have defaults
    assert isinstance(recipe, kind)
    return recipe.scaled(settings.epochs, settings.batch_size)


def budgets_of(targets_ms: Sequence[float]) -> Sequence[float | None]:
    """Budgets of a search, one for each architecture: the targets, or None for limits alone."""
    return targets_ms or (None,)


def _require_one_space(devices: Sequence[PricedSpace]) -> None:
    """Refuse tables of different spaces.

    Raises:
        MismatchError: The spaces differ in name, input size, number of classes or variant.
    """
    first = devices[0]
    for other in devices[1:]:
        if other.space != first.space:
            raise MismatchError(
                f"{first.table.path} prices {first.table.space}, and {other.table.path} prices "
                f"{other.table.space}: search with tables of one space, input size, number of "
                "classes and variant"
            )


class Searcher(ABC):
    """Finds architectures under latency budgets.

    Attributes:
        recipe_kind: Kind of the recipe; None if the algorithm has no settings.
        parallel: Whether several processes can search together.
        several_devices: Whether a target can hold on several devices at once.
        corrects_on_device: Whether the search can adjust an architecture until its measured latency
            meets the target.
        limited: Whether the search can keep limits of MACs and parameters.
        needs_table: Whether the search needs a latency table, even if there are such limits.
        generates: Whether the search trains a generator, which can answer other budgets later.
        trains_choices: Whether held-out images train choices, in batches like the others.
        has_crew: Whether the search scores several architectures at once, which workers can share.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = None
    parallel: ClassVar[bool] = False
    several_devices: ClassVar[bool] = False
    corrects_on_device: ClassVar[bool] = False
    limited: ClassVar[bool] = False
    needs_table: ClassVar[bool] = True
    generates: ClassVar[bool] = False
    trains_choices: ClassVar[bool] = False
    has_crew: ClassVar[bool] = False

    def __init__(self, priced: PricedSpace | SearchSpace, settings: SearchSettings) -> None:
        if settings.seed < 0:
            raise InvalidValueError(f"a seed is 0 or more, not {settings.seed}")
        if settings.workers.count > 1 and not self.parallel:
            raise InvalidValueError("this searcher is one process: start it without torchrun")
        if settings.others and not self.several_devices:
            raise InvalidValueError("this searcher knows one device: give one --table")
        if settings.limits and not self.limited:
            raise InvalidValueError(
                "this searcher knows latency alone: leave out --max-macs and --max-params, or "
                "choose another one, such as evolution"
            )
        self.settings = settings
        self._has_begun = False
        self.devices: tuple[PricedSpace, ...] = ()
        if isinstance(priced, PricedSpace):
            self.devices = (priced, *settings.others)
            _require_one_space(self.devices)
        elif self.needs_table:
            raise InvalidValueError(
                "this searcher searches under a latency: give --table, made by `latbench profile`, "
                "or choose one that needs none, such as evolution"
            )
        self.space = priced.space if isinstance(priced, PricedSpace) else priced
        if settings.measure is not None:
            self._require_correction()
        if settings.crew.is_asked:
            self._require_crew()

    @classmethod
    def bounded(cls, devices: Sequence[PricedSpace], recipe: Recipe | None) -> list[PricedSpace]:
        """The devices that a target holds on, with the space that is searched.

        Args:
            devices: The space with the prices of every device.
            recipe: Recipe of the search; None for its defaults.
        """
        return list(devices)

    @property
    def priced(self) -> PricedSpace:
        """The space as the first device prices it.

        Raises:
            InvalidValueError: The search has no table.
        """
        if not self.devices:
            raise InvalidValueError("there is no latency without a table: give --table")
        return self.devices[0]

    @property
    def torch_device(self) -> TorchDevice:
        """Device on which the search computes, in the precision of its recipe."""
        recipe = getattr(self, "recipe", None)
        given = self.settings.torch_device
        return given.at(recipe.computed_in) if isinstance(recipe, SearchRecipe) else given

    def search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder | Callable[[], RunFolder],
        *,
        progress: Progress = silent,
    ) -> list[SearchResult]:
        """Find an architecture for each target, in the given order, or for the limits alone.

        Args:
            data: Data set of the images.
            targets_ms: The targets in ms.
            folder: Folder of the run; or a function that opens it, which is called after the
                checks, so a refused search leaves no folder.
            progress: Callback with the fraction done and a short description.

        An interrupted search goes on from its last finished epoch if a new searcher is called with
        the same folder. It ends as an uninterrupted search: on a CPU bit for bit, on a GPU up to
        rounding.

        Raises:
            InvalidValueError: This searcher has searched before, so its weights are trained.
            BudgetError: No architecture of the space meets a target or limit. Nothing was trained.
            LatbenchError: Space, searcher, recipe, data and targets do not fit together. Nothing
                was trained.
        """
        if self._has_begun:
            raise InvalidValueError("a searcher searches once: make a new one for another search")
        self.check(data, targets_ms)
        opened = folder if isinstance(folder, RunFolder) else folder()
        self._has_begun = True
        left = "its finished epochs are kept"
        with self.torch_device.guarded(work="the search", kept=left):
            placed = data.to(self.torch_device.device)
            return self._search(placed, targets_ms, opened, progress)

    def check(self, data: ImageData, targets_ms: Sequence[float]) -> None:
        """Refuse data and targets that do not fit this search, before anything is written.

        Raises:
            LatbenchError: The targets are not feasible, or the criterion or the batch size of the
                recipe does not fit the data.
        """
        self.check_targets(targets_ms)
        self.check_data(data)

    def check_data(self, data: ImageData) -> None:
        """Refuse data that this search cannot train on.

        Raises:
            LatbenchError: Criterion, outputs, batch size and data do not fit together.
        """
        recipe = getattr(self, "recipe", None)
        if isinstance(recipe, SearchRecipe):
            self.settings.torch_device.at(
                recipe.computed_in
            )  # raises an error if the device cannot
            criterion_of(data, self.space.classes, recipe)
            train, held_out = divided(data, recipe.held_out, seed=self.settings.seed)
            shown = [train, held_out] if self.trains_choices else [train]
            check_batches(recipe, self.settings.workers, parts=shown)

    def check_targets(self, targets_ms: Sequence[float]) -> None:
        """Refuse targets that no architecture of the space meets within the limits.

        Raises:
            BudgetError: A target is not feasible. Carries the nearest feasible one.
            InvalidValueError: There is neither a target nor a limit, and no generator to train.
        """
        counted = [limit for limit in self.settings.limits if limit.quantity.kind != "memory"]
        if not (targets_ms or counted or self.generates):
            limits = ", or --max-macs 30M" if self.limited else ""
            raise InvalidValueError(f"name a budget: --target 15ms{limits}")
        if not targets_ms:
            if self.settings.measure is not None:
                raise InvalidValueError("--until-verified needs a budget to verify: --target 15ms")
            return
        if not self.devices:
            raise InvalidValueError("--target needs --table: give one, or --max-macs 30M instead")
        low_ms, high_ms = self.priced.feasible_ms()
        for target_ms in targets_ms:
            check_feasible(target_ms, low_ms, high_ms, what=f"space {self.priced.space.name}")

    def _require_crew(self) -> None:
        if not self.has_crew:
            raise InvalidValueError(
                "this searcher scores no architectures that workers could share: leave out "
                "--workers and --ray"
            )
        if self.settings.workers.count > 1:
            raise InvalidValueError(
                "the processes of torchrun share the work already: leave out --workers and --ray, "
                "or torchrun"
            )
        trains_on = self.settings.torch_device
        if self.settings.crew.ray is not None and trains_on.device.index:
            raise InvalidValueError(
                "workers of a cluster number their own GPU 0, and this search is on "
                f"{trains_on.device}: choose it by CUDA_VISIBLE_DEVICES and --torch-device cuda"
            )
        self.settings.crew.require_work(gpu=trains_on.is_gpu)

    def _require_correction(self) -> None:
        if not self.corrects_on_device:
            raise InvalidValueError(
                "this searcher does not measure: search without --until-verified, then correct "
                "what it finds by `latbench fit --until-verified`"
            )
        if self.settings.workers.count > 1:
            raise InvalidValueError(
                "one process measures: search without --until-verified, then repeat the command "
                "with it and without torchrun"
            )

    @abstractmethod
    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        """The search itself, after the checks."""
