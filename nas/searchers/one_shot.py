"""One-shot search: train a supernet once, then let a black-box searcher get scores from it.

It follows SPOS (Guo et al., ECCV 2020). A strategy trains the supernet without regard to budgets.
The shared weights score each architecture, with calibrated batch norms. Searcher, strategy and
constraint can be combined freely (``nas.optimize.blackbox``, ``nas.training.strategies``,
``nas.optimize.constraints``). A target holds on every device that has a table. Limits of MACs and
parameters hold in addition, or alone. The supernet has separate operations, or SGNAS's unified
blocks if the space has them. All targets share their scores. Every score is written to
``evaluations.jsonl`` at once, and an interrupted search repeats its proposals with these scores.
Searchers with the same seed and recipe train the same supernet: with the checkpoint of another one
in its run folder a search needs no training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from torch import nn

from latbench.errors import InvalidValueError
from latbench.files import write_atomically
from latbench.progress import Progress
from nas.data.images import ImageData
from nas.evaluators.journal import Journaled
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.priced_space import PricedSpace
from nas.optimize.blackbox import BLACK_BOXES, BlackBox, run
from nas.optimize.blackbox.variation import DEFAULT, Variation
from nas.optimize.encoding import Code, EncodedSpace
from nas.recipes import Count, Fraction, Recipe
from nas.searchers.base import (
    SearchResult,
    SearchSettings,
    architecture_file,
    budgets_of,
    phase_of,
    recipe_of,
)
from nas.searchers.with_supernet import SupernetSearcher, divided, supernet_of
from nas.spaces import SearchSpace
from nas.supernet.mixed_operations import Supernet
from nas.tasks import task_of
from nas.training.criterion import criterion_of
from nas.training.epochs import Values
from nas.training.run_folder import RunFolder
from nas.training.strategies import Relaxation, Strategy, make_strategy
from nas.training.strategies.widths import RandomWidths
from nas.training.supernet_training import SupernetRecipe, train_supernet

_TRAINING = 0.8  # share of the training in the progress bar


class OneShotRecipe(SupernetRecipe, frozen=True, kw_only=True, tag="one-shot"):
    """Settings of the training and of the search.

    Attributes:
        strategy: Strategy that draws the paths of the training, a name in ``STRATEGIES``.
        alike: Correlation of the initial weights of a unified supernet's sub-blocks; published is
        0.
        evaluations: Number of architectures to score for each target; 1000 in SPOS and OSNASLib.
        surrogate: Whether a model ranks the candidates of evolution before they are scored.
        initial_population: Number of random architectures at the start.
        parents: Number of best architectures that become parents.
        crossovers: Share of the children that have two parents.
        mutation_rate: Probability that a mutation changes a decision; 0 means one or a few changes.
        mutate_crossed: Whether children of two parents are mutated as well.
        single_point: Whether a crossover takes the first layers from one parent and the last ones
            from the other.
    """

    strategy: str = "uniform"
    alike: Fraction = 0.0
    evaluations: Count = 200
    surrogate: bool = True
    initial_population: Count = DEFAULT.initial
    parents: Count = DEFAULT.parents
    crossovers: Fraction = DEFAULT.crossovers
    mutation_rate: Fraction = DEFAULT.mutation_rate
    mutate_crossed: bool = DEFAULT.mutate_crossed
    single_point: bool = DEFAULT.single_point

    @property
    def variation(self) -> Variation:
        """Settings of mutation and crossover."""
        return Variation(
            initial=self.initial_population,
            parents=self.parents,
            crossovers=self.crossovers,
            mutation_rate=self.mutation_rate,
            mutate_crossed=self.mutate_crossed,
            single_point=self.single_point,
        )


class OneShotSearcher(SupernetSearcher):
    """Base of the searchers that get scores from a supernet; each one names its black box.

    Raises:
        InvalidValueError: The strategy does not draw paths.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = OneShotRecipe

    def __init__(self, priced: PricedSpace | SearchSpace, settings: SearchSettings) -> None:
        super().__init__(priced, settings)
        self.recipe = recipe_of(settings, OneShotRecipe)
        self.strategy: Strategy = make_strategy(self.recipe.strategy, self.space)
        if isinstance(self.strategy, Relaxation):
            raise InvalidValueError(
                f"strategy {self.recipe.strategy} trains probabilities, which searchers that score "
                "architectures never ask: choose uniform, fair or sandwich; or search by the "
                f"probabilities themselves, with --searcher {self.recipe.strategy}"
            )
        self.supernet = supernet_of(self.space, seed=settings.seed, alike=self.recipe.alike)
        if isinstance(self.supernet, Supernet):
            self.strategy = RandomWidths(self.strategy, self.allowed_widths)

    @property
    @abstractmethod
    def black_box(self) -> type[BlackBox]:
        """The black-box searcher."""

    def train(self, data: ImageData, folder: RunFolder, *, progress: Progress) -> nn.Module:
        """Train the supernet, or go on from the folder's checkpoint; return the criterion."""
        criterion = criterion_of(data, self.space.classes, self.recipe, seed=self.settings.seed)
        train_supernet(
            self.supernet,
            self.strategy,
            data,
            self.recipe,
            folder,
            seed=self.settings.seed,
            criterion=criterion,
            torch_device=self.torch_device,
            progress=progress,
        )
        return criterion

    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        asked = budgets_of(targets_ms)
        encoded = [EncodedSpace(self.constraint(target_ms)) for target_ms in asked]
        train, selection = divided(data, self.recipe, seed=self.settings.seed)
        criterion = self.train(
            data, folder, progress=lambda done, words: progress(_TRAINING * done, words)
        )
        evaluator = Journaled(
            SupernetEvaluator(
                self.supernet, data, criterion=criterion, calibration=train, selection=selection
            ),
            folder.path / "evaluations.jsonl",
        )
        loosest = encoded[int(np.argmax(targets_ms or [0.0]))]

        def score(code: Code) -> float:
            return evaluator.score(loosest.decode(code))

        task = task_of(data)
        known = self._ask(
            encoded,
            loosest,
            score,
            lambda fitness: f"{task.fitness_name} {task.shown(fitness)}",
            progress,
        )
        results = []
        with folder.metrics() as metrics:
            for constrained, target_ms in zip(encoded, asked, strict=True):
                feasible = [code for code in known if constrained.feasible(code)]
                if not feasible:  # the front has no architecture under this target
                    lightest = constrained.canonical(constrained.lightest)
                    feasible, known[lightest] = [lightest], score(lightest)
                best = max(feasible, key=known.__getitem__)
                latency_ms, made = constrained.latency_ms(best), constrained.decode(best)
                write_atomically(architecture_file(folder.path, target_ms), made.to_json())
                values: Values = {"derived_ms": latency_ms, "score": known[best]}
                metrics.log(phase_of(target_ms), len(known), values)
                results.append(SearchResult(target_ms, latency_ms, known[best], made))
        return results

    def _ask(
        self,
        encoded: Sequence[EncodedSpace],
        loosest: EncodedSpace,
        score: Callable[[Code], float],
        shown: Callable[[float], str],
        progress: Progress,
    ) -> dict[Code, float]:
        """Search under each target, or once under the loosest one if that gives a whole front."""
        family = self.black_box
        searched = [loosest] if family.whole_front else encoded
        evaluations = self.recipe.evaluations * len(encoded) // len(searched)
        known: dict[Code, float] = {}
        for index, constrained in enumerate(searched):
            black_box = family(
                constrained, seed=self.settings.seed, variation=self.recipe.variation
            )
            for code, known_score in known.items():
                if constrained.feasible(code):
                    black_box.tell(code, known_score)

            def report(done: float, words: str, index: int = index) -> None:
                share = (index + done) / len(searched)
                progress(_TRAINING + (1 - _TRAINING) * share, words)

            run(black_box, score, evaluations, shown=shown, progress=report)
            known |= black_box.scores
        return known


class RandomSearcher(OneShotSearcher):
    """Random architectures, scored by the supernet."""

    @property
    def black_box(self) -> type[BlackBox]:
        return BLACK_BOXES["random"]


class EvolutionSearcher(OneShotSearcher):
    """Evolution. By default a surrogate ranks candidates before the supernet scores them."""

    @property
    def black_box(self) -> type[BlackBox]:
        return BLACK_BOXES["surrogate" if self.recipe.surrogate else "evolution"]


class NSGA2Searcher(OneShotSearcher):
    """NSGA-II: one front of score against load for all targets."""

    @property
    def black_box(self) -> type[BlackBox]:
        return BLACK_BOXES["nsga2"]


class ExactSearcher(OneShotSearcher):
    """The exact optimum of an additive model of the scores, which each score refines."""

    @property
    def black_box(self) -> type[BlackBox]:
        return BLACK_BOXES["exact"]
