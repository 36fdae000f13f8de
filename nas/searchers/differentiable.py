"""Differentiable search: a mixture of choices with trained weights.

``softmax`` is first-order DARTS (Liu et al., ICLR 2019). ``gumbel`` is FBNet (Wu et al., CVPR
2019). This module contains the parts that both share. They differ in the strategies of the same
names (``nas.training.strategies``). The weights of operations and depths learn on held-out images,
from the loss of the task combined with the exact expected latency (``nas.criteria.hardware``). On
unified blocks the weights belong to kernels (``nas.searchers.kernels``). The result is exactly the
most probable architecture within the target (``nas.optimize.exact_solver``). If widths are elastic,
it is the most probable one that can be scaled to just below the target
(``nas.searchers.derivation``).

The mixture itself trains the shared weights, as published, or another strategy draws paths for this
(``strategy = "uniform"``): then a step computes one path instead of all operations.

DARTS has no latency, and neither paper has a hard budget. The setting ``latency_objective = "c1"``
is FBNet's own objective, which has no target. Each target has its own training. If widths are not
elastic, a target holds on every device that has a table, and limits of MACs and parameters hold in
addition or alone. The loss then includes the quantity with the largest ratio to its budget, in the
unit of the first quantity (ms, or millions).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from latbench.errors import InvalidValueError
from latbench.files import write_atomically
from latbench.progress import Progress
from nas.criteria.hardware import objective_of
from nas.data.images import ImageData
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import Constraint, expected_load
from nas.optimize.encoding import EncodedSpace
from nas.optimize.exact_solver import Scores, best_code
from nas.recipes import Fraction, Recipe
from nas.searchers.base import (
    SearchResult,
    SearchSettings,
    architecture_file,
    budgets_of,
    phase_of,
    recipe_of,
)
from nas.searchers.derivation import derive
from nas.searchers.kernels import KernelLoads, most_probable_kernels
from nas.searchers.scored_choices import LogProbabilities
from nas.searchers.with_supernet import SupernetSearcher, divided, supernet_of
from nas.spaces import Architecture, SearchSpace
from nas.spaces.sgnas import is_unified
from nas.supernet.mixed_operations import start_widths
from nas.training.bilevel_settings import Objective
from nas.training.criterion import criterion_of
from nas.training.epochs import Values
from nas.training.run_folder import RunFolder
from nas.training.strategies import (
    DifferentiableStrategy,
    Relaxation,
    Strategy,
    make_strategy,
)
from nas.training.strategies.base import Drawn
from nas.training.strategies.kernel_paths import RelaxedKernels
from nas.training.supernet_training import SupernetRecipe, train_supernet


class DifferentiableRecipe(SupernetRecipe, frozen=True, kw_only=True, tag="differentiable"):
    """Settings of the training of supernet and choices.

    Attributes:
        strategy: Strategy that draws paths to train the shared weights; empty trains them by the
            mixture itself.
        alike: Correlation of the initial weights of a unified supernet's sub-blocks; published is
        0.
        latency_objective: Way to combine loss and expected cost, a name in ``OBJECTIVES``.
    """

    strategy: str = ""
    alike: Fraction = 0.0
    latency_objective: str = "absolute"


class DifferentiableSearcher(SupernetSearcher):
    """Base of both searchers; each one names its relaxation.

    Raises:
        InvalidValueError: The strategy does not draw paths. Or the space has elastic widths, and
            there are several devices, limits or no table.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = DifferentiableRecipe

    def __init__(self, priced: PricedSpace | SearchSpace, settings: SearchSettings) -> None:
        super().__init__(priced, settings)
        self.recipe = recipe_of(settings, DifferentiableRecipe)
        space = self.space
        if space.elastic_width and len(self.devices) != 1:
            raise InvalidValueError(
                f"the widths of {space.name} are scaled on one device: give one --table, "
                "or choose a searcher that evaluates architectures, such as evolution"
            )
        if space.elastic_width and settings.limits:
            raise InvalidValueError(
                f"the widths of {space.name} are scaled to a latency: leave out --max-macs "
                "and --max-params, or choose a searcher that evaluates architectures"
            )
        if self.recipe.strategy and isinstance(self._sampler(), Relaxation):
            raise InvalidValueError(
                f"strategy {self.recipe.strategy} is a mixture, and this searcher has its own: "
                "choose uniform, fair or sandwich, or leave it out"
            )
        self.objective = objective_of(self.recipe.latency_objective)
        self.widths = start_widths(space)

    @property
    @abstractmethod
    def relaxation(self) -> str:
        """Name in ``STRATEGIES`` of the strategy that mixes the choices."""

    def _sampler(self) -> Strategy:
        """The strategy that trains the shared weights."""
        return make_strategy(self.recipe.strategy, self.space)

    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        results = []
        asked = budgets_of(targets_ms)
        for index, target_ms in enumerate(asked):

            def report(done: float, words: str, index: int = index) -> None:
                progress((index + done) / len(asked), words)

            results.append(self._search_one(data, target_ms, folder, report))
        return results

    def _search_one(
        self, data: ImageData, target_ms: float | None, folder: RunFolder, progress: Progress
    ) -> SearchResult:
        seed, space = self.settings.seed, self.space
        train, selection = divided(data, self.recipe, seed=seed)
        supernet = supernet_of(space, seed=seed, alike=self.recipe.alike)
        relaxation = make_strategy(self.relaxation, space)
        assert isinstance(relaxation, Relaxation)
        criterion = criterion_of(data, space.classes, self.recipe, seed=seed)

        phase = phase_of(target_ms)
        train_supernet(
            supernet,
            self._sampler() if self.recipe.strategy else relaxation,
            data,
            self.recipe,
            folder,
            relaxation=relaxation,
            phase=phase,
            seed=seed,
            criterion=criterion,
            objective=self._objective(self.constraint(target_ms)),
            torch_device=self.torch_device,
            progress=progress,
        )
        made, latency_ms = self._derived(relaxation, target_ms)
        write_atomically(architecture_file(folder.path, target_ms), made.to_json())
        evaluator = SupernetEvaluator(
            supernet, data, criterion=criterion, calibration=train, selection=selection
        )
        score = evaluator.score(made)
        with folder.metrics() as metrics:
            values: Values = {"derived_ms": latency_ms, "score": score}
            metrics.log(phase, self.recipe.epochs, values)
        return SearchResult(target_ms, latency_ms, score, made)

    def _objective(self, constraint: Constraint) -> Objective:
        """Objective of architecture steps: the loss combined with the expected cost."""
        first = constraint.limits[0]
        budget = first.budget if first.quantity.kind == "latency" else first.budget / 1e6
        loads = KernelLoads(constraint) if is_unified(self.space) else None

        def cost(relaxed: Drawn) -> Tensor:
            if loads is not None:
                return loads.expected(relaxed) * budget
            load: Tensor = expected_load(constraint, relaxed, self.widths) * budget
            return load

        def total(loss: Tensor, cost: Tensor) -> Tensor:
            value: Tensor = self.objective(loss, cost, budget)
            return value

        return Objective(cost, total)

    def _derived(
        self, relaxation: Relaxation, target_ms: float | None
    ) -> tuple[Architecture, float | None]:
        """The most probable architecture within target and limits, and its latency in ms."""
        space = self.space
        if isinstance(relaxation, RelaxedKernels):
            encoded = EncodedSpace(self.constraint(target_ms))
            code = most_probable_kernels(encoded, relaxation.probabilities())
            return encoded.decode(code), encoded.latency_ms(code)
        assert isinstance(relaxation, DifferentiableStrategy)
        ops = [np.log(np.maximum(row, 1e-30)) for row in relaxation.probabilities()[0]]
        depths = []
        missing = (
            -np.inf if space.elastic_width else 0.0
        )  # score of depths that the space does not have
        for stage, row in enumerate(relaxation.probabilities()[1]):
            logs = np.full(len(space.stages[stage]), missing)
            for depth, probability in zip(space.depths(stage), row, strict=True):
                logs[depth - 1] = np.log(max(probability, 1e-30))
            depths.append(logs)
        if space.elastic_width:
            assert target_ms is not None  # limits alone were refused
            left = iter(ops)
            log = LogProbabilities(
                [[next(left).tolist() for _ in layers] for layers in space.stages],
                [row.tolist() for row in depths],
            )
            found = derive(self.priced, log, widths=self.widths, target_ms=target_ms)
            return found.architecture, found.latency_ms
        encoded = EncodedSpace(self.constraint(target_ms))
        by_choice = [
            np.array([row[layer.ops.index(choice.op)] for choice in choices])
            for layer, row, choices in zip(space.layers, ops, encoded.choices, strict=True)
        ]
        code = best_code(encoded, Scores(by_choice, depths))
        return encoded.decode(code), encoded.latency_ms(code)


class SoftmaxSearcher(DifferentiableSearcher):
    """Operations mixed by their probabilities (DARTS, first order)."""

    @property
    def relaxation(self) -> str:
        return "softmax"


class GumbelSearcher(DifferentiableSearcher):
    """Operations mixed by Gumbel softmax (FBNet)."""

    @property
    def relaxation(self) -> str:
        return "gumbel"
