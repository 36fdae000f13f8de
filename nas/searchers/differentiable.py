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
(``strategy = "uniform"``): then a step computes one path instead of all operations. Weights of
unified blocks are always trained by paths. Weight steps draw a width for every elastic operation,
so every width that may be derived is trained. Architecture steps see the widths of the start.

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
from latbench.progress import Phase, Phases, Progress, silent
from nas.criteria.hardware import objective_of
from nas.data.fit import divided
from nas.data.images import ImageData
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.aimed_proposals import Propose, Range
from nas.latency.correction import Correction
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit
from nas.optimize.constraints import Constraint, expected_load
from nas.optimize.encoding import EncodedSpace
from nas.optimize.exact_solver import Scores, best_code
from nas.recipes import Fraction, Recipe
from nas.searchers.base import SearchSettings, budgets_of, recipe_of
from nas.searchers.derivation import derive, proposals
from nas.searchers.kernels import KernelLoads, most_probable_kernels
from nas.searchers.results import SearchResult, kept
from nas.searchers.scored_choices import Floats, LogProbabilities
from nas.searchers.verifying import fixed, measuring_phases, verify_proposals
from nas.searchers.with_supernet import SupernetSearcher, supernet_of
from nas.spaces import SearchSpace
from nas.spaces.sgnas import is_unified
from nas.supernet.mixed_operations import Supernet, has_widths, start_widths
from nas.training.bilevel_settings import Objective
from nas.training.criterion import criterion_of
from nas.training.run_files import phase_of
from nas.training.run_folder import RunFolder
from nas.training.strategies import (
    DifferentiableStrategy,
    Relaxation,
    Strategy,
    make_strategy,
)
from nas.training.strategies.base import Drawn
from nas.training.strategies.kernel_paths import RelaxedKernels
from nas.training.strategies.widths import RandomWidths
from nas.training.supernet_training import SupernetRecipe, train_supernet

_SCORED = 0.05  # time to derive and evaluate an architecture, relative to the training
_OF_UNIFIED = "uniform"


class DifferentiableRecipe(SupernetRecipe, frozen=True, kw_only=True, tag="differentiable"):
    """Settings of the training of supernet and choices.

    Attributes:
        strategy: Strategy that draws paths to train the shared weights; empty trains them by the
            mixture itself, on unified blocks by ``uniform``.
        alike: Correlation of the initial weights of a layer's operations or sub-blocks; 0 as
            published.
        latency_objective: Way to combine loss and expected cost, a name in ``OBJECTIVES``.
    """

    strategy: str = ""
    alike: Fraction = 0.0
    latency_objective: str = "absolute"


class DifferentiableSearcher(SupernetSearcher):
    """Base of both searchers; each one names its relaxation.

    Raises:
        InvalidValueError: The strategy does not draw paths. Or the space has elastic widths, and
            there are several devices, limits or no table; or some operations have widths and others
            have none.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = DifferentiableRecipe
    trains_choices: ClassVar[bool] = True

    def __init__(self, priced: PricedSpace | SearchSpace, settings: SearchSettings) -> None:
        super().__init__(priced, settings)
        self.recipe = recipe_of(settings, DifferentiableRecipe)
        space = self.space
        if has_widths(space) and not space.elastic_width:
            raise InvalidValueError(
                f"some operations of {space.name} have widths and others have none, which this "
                "searcher cannot compare: choose tfnas, or a searcher that evaluates "
                "architectures, such as evolution"
            )
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
        if isinstance(self._sampler(), Relaxation):
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

    def _sampler(self) -> Strategy | None:
        """The strategy that trains the shared weights; None for the mixture.

        A mixture of kernels hardly trains the norms of most numbers of active sub-blocks, nor the
        sub-blocks as a network has them. Weights of unified blocks are made for paths.
        """
        name = self.recipe.strategy or (_OF_UNIFIED if is_unified(self.space) else "")
        return make_strategy(name, self.space) if name else None

    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        asked = budgets_of(targets_ms)
        parts = []
        for name in map(phase_of, asked):
            parts += [Phase(f"train {name}", 1.0), Phase(f"derive {name}", _SCORED)]
            parts += measuring_phases(name, self.settings.measure)
            parts.append(Phase(f"score {name}", _SCORED))
        with Phases(progress, parts) as phases:
            return [self._search_one(data, target_ms, folder, phases) for target_ms in asked]

    def _search_one(
        self, data: ImageData, target_ms: float | None, folder: RunFolder, phases: Phases
    ) -> SearchResult:
        seed, space, phase = self.settings.seed, self.space, phase_of(target_ms)
        training = phases[f"train {phase}"]
        training(0.0, "making the supernet")
        train, selection = divided(data, self.recipe.held_out, seed=seed)
        supernet = supernet_of(space, seed=seed, alike=self.recipe.alike)
        relaxation = make_strategy(self.relaxation, space)
        assert isinstance(relaxation, Relaxation)
        criterion = criterion_of(data, space.classes, self.recipe, seed=seed)

        sampler = self._sampler() or relaxation
        if isinstance(supernet, Supernet):
            sampler = RandomWidths(sampler, self.allowed_widths)
        train_supernet(
            supernet,
            sampler,
            data,
            self.recipe,
            folder,
            relaxation=relaxation,
            phase=phase,
            seed=seed,
            criterion=criterion,
            objective=self._objective(self.constraint(target_ms)),
            parts=(train, selection),
            torch_device=self.torch_device,
            progress=training,
        )
        phases[f"derive {phase}"](0.0, "deriving the architecture")
        measuring = silent if self.settings.measure is None else phases[f"measure {phase}"]
        found, correction = self._chosen(relaxation, target_ms, folder, measuring)
        made = found.architecture
        latency_ms = found.latency_ms if self.devices else None
        if len(self.devices) > 1:
            latency_ms = max(each.latency_ms(made) for each in self.devices)
        evaluator = SupernetEvaluator(
            supernet, data, criterion=criterion, calibration=train, selection=selection
        )
        phases[f"score {phase}"](0.0, "evaluating the architecture")
        score = evaluator.score(made)
        result = SearchResult(target_ms, latency_ms, score, made, correction=correction)
        return kept(result, folder, self.devices, step=self.recipe.epochs)

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

    def _chosen(
        self,
        relaxation: Relaxation,
        target_ms: float | None,
        folder: RunFolder,
        progress: Progress,
    ) -> tuple[Fit, Correction[Fit] | None]:
        """The most probable architecture within target and limits, measured if asked for."""
        measure = self.settings.measure
        if measure is None or target_ms is None:
            return self._derived(relaxation, target_ms), None
        propose = self._proposals(relaxation, target_ms)
        correction = verify_proposals(
            self.priced, propose, target_ms, measure=measure, folder=folder, progress=progress
        )
        return correction.fit, correction

    def _derived(self, relaxation: Relaxation, target_ms: float | None) -> Fit:
        """The most probable architecture within target and limits."""
        if self.space.elastic_width:
            assert isinstance(relaxation, DifferentiableStrategy)
            assert target_ms is not None  # limits alone were refused
            log = self._log_probabilities(relaxation)
            return derive(self.priced, log, widths=self.widths, target_ms=target_ms)
        return self._most_probable(relaxation, self.constraint(target_ms))

    def _proposals(self, relaxation: Relaxation, target_ms: float) -> Propose[Fit]:
        """A function that proposes the most probable architecture for a latency."""
        if self.space.elastic_width:
            assert isinstance(relaxation, DifferentiableStrategy)
            return proposals(self.priced, self._log_probabilities(relaxation), widths=self.widths)

        def propose(aim_ms: float, width_range_ms: Range) -> Fit:
            found = self._most_probable(relaxation, self.constraint(target_ms, aim_ms=aim_ms))
            return fixed(found.architecture, self.priced.latency_ms(found.architecture))

        return propose

    def _most_probable(self, relaxation: Relaxation, constraint: Constraint) -> Fit:
        """The most probable architecture of a space without elastic widths."""
        encoded = EncodedSpace(constraint)
        if isinstance(relaxation, RelaxedKernels):
            code = most_probable_kernels(encoded, relaxation.probabilities())
        else:
            assert isinstance(relaxation, DifferentiableStrategy)
            ops, depths = self._logs(relaxation)
            by_choice = [
                np.array([row[layer.ops.index(choice.op)] for choice in choices])
                for layer, row, choices in zip(self.space.layers, ops, encoded.choices, strict=True)
            ]
            code = best_code(encoded, Scores(by_choice, depths))
        return fixed(encoded.decode(code), encoded.latency_ms(code) or 0.0)

    def _log_probabilities(self, relaxation: DifferentiableStrategy) -> LogProbabilities:
        ops, depths = self._logs(relaxation)
        left = iter(ops)
        return LogProbabilities(
            [[next(left).tolist() for _ in layers] for layers in self.space.stages],
            [row.tolist() for row in depths],
        )

    def _logs(self, relaxation: DifferentiableStrategy) -> tuple[list[Floats], list[Floats]]:
        """Log probabilities of the operations of every layer, and of the depths of every stage.

        Those of operations are relative to the most probable one of their layer. Otherwise every
        further layer would lower the probability of a deeper network.
        """
        space = self.space
        ops = [np.log(np.maximum(row, 1e-30)) for row in relaxation.probabilities()[0]]
        ops = [row - row.max() for row in ops]
        depths = []
        missing = (
            -np.inf if space.elastic_width else 0.0
        )  # score of depths that the space does not have
        for stage, row in enumerate(relaxation.probabilities()[1]):
            logs = np.full(len(space.stages[stage]), missing)
            for depth, probability in zip(space.depths(stage), row, strict=True):
                logs[depth - 1] = np.log(max(probability, 1e-30))
            depths.append(logs)
        return ops, depths


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
