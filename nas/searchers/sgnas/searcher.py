"""SGNAS: one generator that answers any budget (Huang & Chu, CVPR 2021), for several devices.

First the supernet is trained: a unified one (``nas.training.unified_training``), or one of separate
operations (``nas.training.supernet_training``; the generator of OSNASLib). Then its weights are
frozen and the generator is trained (``nas.searchers.sgnas.generator_training``). It gets a budget
and outputs an architecture, which is repaired to keep the budget exactly
(``nas.generator.answers``). For a new device only its vector is trained
(``nas.searchers.sgnas.adaptation``).

Both trainings are data parallel under ``torchrun``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from latbench.cost import Cost, block_cost
from latbench.errors import InvalidValueError
from latbench.progress import Phase, Phases, Progress, silent
from nas.data.images import ImageData
from nas.evaluators.operations import trained_operations
from nas.evaluators.relaxed import AnyRelaxedEvaluator
from nas.evaluators.unified_weights import trained_unified
from nas.generator import (
    DecisionPlane,
    Generator,
    PlaneLimit,
    Request,
    answers,
    device_of,
    least_outcomes,
    memory_costs,
    plane_of,
    save_generator,
)
from nas.latency.aimed_proposals import Range
from nas.latency.correction import Correction
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit
from nas.optimize.constraints import Constraint, Limit, latency_limits
from nas.optimize.encoding import EncodedSpace
from nas.optimize.memory import LargeBlocks
from nas.recipes import Recipe
from nas.searchers.base import Searcher, SearchSettings, budgets_of, recipe_of
from nas.searchers.results import SearchResult, kept
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.generator_training import GeneratorTraining
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.verifying import fixed, measuring_phases, verify_proposals
from nas.spaces import SearchSpace
from nas.training.criterion import check_batches, criterion_of
from nas.training.distributed import ALONE, Workers
from nas.training.run_files import generator_file
from nas.training.run_folder import RunFolder
from nas.training.strategies import Relaxation, make_strategy
from nas.training.torch_device import CPU, TorchDevice
from nas.training.unified_training import divide

_ANSWER = 0.01  # time of an answer, relative to both trainings


class SGNASSearcher(Searcher):
    """Trains supernet and generator, and answers the targets on the first device.

    The run folder contains the generator, which answers any other budget on every device. A search
    without targets trains only the generator.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = SGNASRecipe
    parallel: ClassVar[bool] = True
    several_devices: ClassVar[bool] = True
    limited: ClassVar[bool] = True
    needs_table: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    corrects_on_device: ClassVar[bool] = True
    has_crew: ClassVar[bool] = True

    def __init__(self, priced: PricedSpace | SearchSpace, settings: SearchSettings) -> None:
        super().__init__(priced, settings)
        self.recipe = recipe_of(settings, SGNASRecipe)
        self.budgets = Budgets.of(
            self.space, self.devices, low=self.recipe.low, high=self.recipe.high
        )
        check_strategy(self.budgets.plane, self.recipe)

    @classmethod
    def bounded(cls, devices: Sequence[PricedSpace], recipe: Recipe | None) -> list[PricedSpace]:
        return list(devices[:1])  # the generator learns the others

    def check_targets(self, targets_ms: Sequence[float]) -> None:
        super().check_targets(targets_ms)
        if self._memory and not self.requests(targets_ms):
            raise InvalidValueError(
                "a limit of memory alone is no budget of a generator: add --target, or --max-macs"
            )
        if self.settings.limits:
            for target_ms in budgets_of(targets_ms):
                latency = latency_limits(self.devices[:1], target_ms).limits if target_ms else ()
                EncodedSpace(Constraint((*latency, *self.settings.limits)))
        for request in self.requests(targets_ms):
            least_outcomes(request, self._memory)

    def check_data(self, data: ImageData) -> None:
        # raises an error where the device cannot compute in this precision
        self.settings.torch_device.at(self.recipe.computed_in)
        criterion_of(
            data, self.space.classes, self.recipe, seed=self.settings.seed, default="scratch"
        )
        parts = divide(data, self.recipe, seed=self.settings.seed)
        shown = [parts.weights, parts.generator]
        check_batches(self.recipe, self.settings.workers, parts=shown)

    def requests(self, targets_ms: Sequence[float]) -> list[Request]:
        """Requests to the generator: each target with all limits, or only the limits."""
        counts = tuple(
            self._counted(limit)
            for limit in self.settings.limits
            if limit.quantity.kind != "memory"
        )
        if not targets_ms:
            return [Request(counts)] if counts else []
        device = device_of(self.priced.table)
        latency = self.budgets.latencies[device]
        return [Request((PlaneLimit(latency, ms), *counts), device) for ms in targets_ms]

    @property
    def _memory(self) -> tuple[PlaneLimit, ...]:
        """Limit of peak memory, which the generator does not learn and its answers keep."""
        return tuple(
            PlaneLimit(memory_costs(limit.quantity), limit.budget)
            for limit in self.settings.limits
            if isinstance(limit.quantity, LargeBlocks)
        )

    def _counted(self, limit: Limit) -> PlaneLimit:
        """A limit in the unit of generators (MACs of convolutions), at most the greatest cost."""
        costs = next(c for c in self.budgets.counts if c.kind == limit.quantity.kind)
        budget = limit.budget
        if (
            costs.kind == "macs"
        ):  # linear layers are in the head, which is the same in all architectures
            budget -= sum((block_cost(spec) for spec in self.space.head), Cost()).linear_macs
        return PlaneLimit(costs, min(budget / 1e6, costs.feasible_range[1]))

    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        share, requests = self.recipe.supernet_share(data), self.requests(targets_ms)
        parts = [
            Phase("supernet", share),
            Phase("generator", 1 - share),
        ]
        for number, _ in enumerate(requests):
            parts += measuring_phases(str(number), self.settings.measure)
            parts.append(Phase(f"answer {number}", _ANSWER))
        with Phases(progress, parts) as phases:
            return self._search_in(phases, data, targets_ms, folder)

    def _search_in(
        self,
        phases: Phases,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
    ) -> list[SearchResult]:
        """Train the supernet and the generator, and answer the targets."""
        recipe, seed, space = self.recipe, self.settings.seed, self.space
        workers, measure = self.settings.workers, self.settings.measure
        phases["supernet"](0.0, "making the supernet")
        evaluator = evaluator_of(
            folder,
            space,
            data,
            recipe,
            seed=seed,
            torch_device=self.torch_device,
            workers=workers,
            progress=phases["supernet"],
        )
        training = GeneratorTraining(
            evaluator, space, self.budgets, recipe, seed, crew=self.settings.crew
        )
        trained = training.run(folder, phases["generator"])
        if workers.leads:
            save_generator(trained, generator_file(folder.path))
        requests = self.requests(targets_ms)
        asked = budgets_of(targets_ms) if requests else []
        answered = answers(trained, space, requests, also=self._memory)
        results = []
        for number, (target_ms, answer) in enumerate(zip(asked, answered, strict=True)):
            measuring = silent if measure is None else phases[f"measure {number}"]
            correction = self._measured(trained, target_ms, folder, measuring)
            phases[f"answer {number}"](0.0, "evaluating an answer")
            made = correction.fit.architecture if correction else answer.architecture
            latency_ms = self.priced.latency_ms(made) if self.devices else None
            score = evaluator.score(made)  # all processes evaluate together
            result = SearchResult(target_ms, latency_ms, score, made, correction=correction)
            first = self.devices[:1]
            results.append(kept(result, folder, first, step=recipe.epochs, workers=workers))
        return results

    def _measured(
        self,
        generator: Generator,
        target_ms: float | None,
        folder: RunFolder,
        progress: Progress,
    ) -> Correction[Fit] | None:
        """The generator's architecture for a target, measured; None if nothing is measured."""
        measure = self.settings.measure
        if measure is None or target_ms is None:
            return None

        def propose(aim_ms: float, width_range_ms: Range) -> Fit:
            asked = self.requests([aim_ms])
            (answer,) = answers(generator, self.space, asked, also=self._memory)
            return fixed(answer.architecture, self.priced.latency_ms(answer.architecture))

        return verify_proposals(
            self.priced, propose, target_ms, measure=measure, folder=folder, progress=progress
        )


def check_strategy(plane: DecisionPlane, recipe: SGNASRecipe) -> None:
    """Refuse a strategy that does not draw paths of the space's supernet.

    Raises:
        UnknownNameError: There is no such strategy.
        InvalidValueError: The supernet is unified and always has its own strategy, or the strategy
            trains probabilities of choices.
    """
    if not recipe.strategy:
        return
    if plane.name == "sub-blocks":
        raise InvalidValueError(
            f"the supernet of {plane.space.name} is trained on the fair paths of SGNAS: leave out "
            "the setting strategy"
        )
    if isinstance(make_strategy(recipe.strategy, plane.space), Relaxation):
        raise InvalidValueError(
            f"the strategy {recipe.strategy} trains choices itself: choose one that draws paths, "
            "such as uniform or fair"
        )


def evaluator_of(
    folder: RunFolder,
    space: SearchSpace,
    data: ImageData,
    recipe: SGNASRecipe,
    *,
    seed: int,
    torch_device: TorchDevice = CPU,
    workers: Workers = ALONE,
    progress: Progress = silent,
) -> AnyRelaxedEvaluator:
    """Evaluator with the supernet of a run, which is trained or read from the run folder.

    Args:
        folder: Folder of the run.
        space: Space of the run.
        data: Data of the run.
        recipe: Recipe of the run.
        seed: Seed of the run.
        torch_device: Device for training and evaluation.
        workers: The processes that train and evaluate together.
        progress: Gets the fraction that is done, and a description.

    Raises:
        MismatchError: The space has no decision plane for a generator.
    """
    if plane_of(space).name == "sub-blocks":
        return trained_unified(
            folder,
            space,
            data,
            recipe,
            seed=seed,
            torch_device=torch_device,
            workers=workers,
            progress=progress,
        )
    return trained_operations(
        folder,
        space,
        data,
        recipe,
        strategy=recipe.strategy or "uniform",
        seed=seed,
        torch_device=torch_device,
        workers=workers,
        progress=progress,
    )
