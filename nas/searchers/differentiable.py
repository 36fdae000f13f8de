"""Differentiable search on the generic supernet: operations mixed by weights that are trained.

``softmax`` is DARTS of first order (Liu et al., ICLR 2019), ``gumbel`` is FBNet (Wu et al., CVPR
2019); what they share is here, what they differ in are the strategies of these names
(``nas.training.strategies``). The weights of operations and of depths learn on held-out images,
from the task's loss joined to the exact expected latency (``nas.criteria.hardware``). At the end
stands the most probable architecture within the target, exactly (``nas.additive``); where widths
are elastic, the most probable one that can be scaled to just below (``nas.searchers.derivation``).

DARTS has no latency and neither paper has a hard budget; FBNet's own objective, which knows no
target, is the setting ``latency_objective = "c1"``. Each target is a training of its own. Where
widths are not elastic, a target holds on every device that there is a table of, and limits of MACs
and parameters beside it: what joins the loss is the quantity that is most over its budget, or
nearest to it, as a latency that is as far from the target.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from latbench.errors import InvalidValueError
from latbench.files import write_atomically
from nas.additive import Scores, best_code
from nas.coding import CodedSpace
from nas.constraints import expected_load
from nas.criteria.hardware import OBJECTIVES
from nas.data.images import ImageData
from nas.evaluators.supernet import SupernetEvaluator
from nas.priced import PricedSpace
from nas.recipes import Recipe
from nas.relaxation import Relaxed
from nas.searchers.base import (
    SearchResult,
    SearchSettings,
    architecture_file,
    budgets_of,
    phase_of,
    recipe_of,
)
from nas.searchers.derivation import LogProbabilities, derive
from nas.searchers.supernet import SupernetSearcher, divided
from nas.spaces import Architecture
from nas.supernet.supernet import searchable_supernet, start_widths
from nas.training.criterion import criterion_of
from nas.training.epochs import Progress
from nas.training.run_folder import RunFolder
from nas.training.strategies import STRATEGIES, DifferentiableStrategy
from nas.training.supernet import SupernetRecipe, train_supernet


class DifferentiableRecipe(SupernetRecipe, frozen=True, kw_only=True, tag="differentiable"):
    """How supernet and choices are trained.

    Attributes:
        latency_objective: How the expected latency joins the loss, a name in ``OBJECTIVES``.
    """

    latency_objective: str = "absolute"


class DifferentiableSearcher(SupernetSearcher):
    """Base of both; each gives the name of its strategy.

    Raises:
        InvalidValueError: The space has no supernet of separate operations; or widths to scale,
            and several devices or limits.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = DifferentiableRecipe

    def __init__(self, priced: PricedSpace, settings: SearchSettings) -> None:
        super().__init__(priced, settings)
        self.recipe = recipe_of(settings, DifferentiableRecipe)
        if priced.space.elastic_width and settings.others:
            raise InvalidValueError(
                f"the widths of {priced.space.name} are scaled on one device: give one --table, "
                "or choose a searcher that evaluates architectures"
            )
        if priced.space.elastic_width and settings.limits:
            raise InvalidValueError(
                f"the widths of {priced.space.name} are scaled to a latency: leave out --max-macs "
                "and --max-params, or choose a searcher that evaluates architectures"
            )
        self.objective = OBJECTIVES[self.recipe.latency_objective]
        self.widths = start_widths(priced.space)

    @property
    @abstractmethod
    def strategy(self) -> str:
        """Name of the strategy in ``STRATEGIES``."""

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
        seed, space = self.settings.seed, self.priced.space
        train, judged = divided(data, self.recipe, seed=seed)
        supernet = searchable_supernet(space, seed=seed)
        strategy = STRATEGIES[self.strategy](space)
        assert isinstance(strategy, DifferentiableStrategy)
        criterion = criterion_of(data, space.classes, self.recipe, seed=seed)

        constraint = self.constraint(target_ms)
        budget_ms = constraint.limits[0].budget

        def total(loss: Tensor, relaxed: Relaxed) -> Tensor:
            load = expected_load(constraint, relaxed, self.widths)
            value: Tensor = self.objective(loss, load * budget_ms, budget_ms)
            return value

        phase = phase_of(target_ms)
        train_supernet(
            supernet,
            strategy,
            data,
            self.recipe,
            folder,
            phase=phase,
            seed=seed,
            criterion=criterion,
            objective=total,
            progress=progress,
        )
        made, latency_ms = self._derived(strategy, target_ms)
        write_atomically(architecture_file(folder.path, target_ms), made.to_json())
        evaluator = SupernetEvaluator(
            supernet, data, criterion=criterion, calibration=train, judged=judged
        )
        score = evaluator.score(made)
        with folder.metrics() as metrics:
            metrics.log(phase, self.recipe.epochs, {"derived_ms": latency_ms, "score": score})
        return SearchResult(target_ms, latency_ms, score, made)

    def _derived(
        self, strategy: DifferentiableStrategy, target_ms: float | None
    ) -> tuple[Architecture, float]:
        """The most probable architecture within target and limits, and its latency in ms."""
        space = self.priced.space
        ops = [np.log(np.maximum(row, 1e-30)) for row in strategy.probabilities()[0]]
        depths = []
        missing = -np.inf if space.elastic_width else 0.0  # of depths that the space has not
        for stage, row in enumerate(strategy.probabilities()[1]):
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
        coded = CodedSpace(self.constraint(target_ms))
        by_choice = [
            np.array([row[layer.ops.index(choice.op)] for choice in choices])
            for layer, row, choices in zip(space.layers, ops, coded.choices, strict=True)
        ]
        code = best_code(coded, Scores(by_choice, depths))
        return coded.decode(code), coded.latency_ms(code)


class SoftmaxSearcher(DifferentiableSearcher):
    """Operations mixed by their probabilities (DARTS, first order)."""

    @property
    def strategy(self) -> str:
        return "softmax"


class GumbelSearcher(DifferentiableSearcher):
    """Operations mixed by Gumbel softmax (FBNet)."""

    @property
    def strategy(self) -> str:
        return "gumbel"
