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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from latbench.errors import InvalidValueError
from latbench.progress import Phase, Phases, Progress
from nas.data.fit import divided
from nas.data.images import ImageData, Source
from nas.evaluators.crew import crewed, require_several
from nas.evaluators.journal import Journaled
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.aimed_proposals import Propose, Range
from nas.latency.correction import Correction
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit
from nas.optimize.blackbox import BLACK_BOXES, BlackBox, run
from nas.optimize.encoding import Code, EncodedSpace
from nas.recipes import Recipe
from nas.searchers.base import SearchSettings, budgets_of, recipe_of
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.searchers.results import SearchResult, kept
from nas.searchers.verifying import fixed, measuring_phases, verify_proposals
from nas.searchers.with_supernet import SupernetSearcher, supernet_of
from nas.spaces import SearchSpace
from nas.supernet.mixed_operations import Supernet
from nas.tasks import Task, task_of
from nas.training.criterion import criterion_of
from nas.training.run_files import evaluations_file
from nas.training.run_folder import RunFolder
from nas.training.strategies import Relaxation, Strategy, make_strategy
from nas.training.strategies.widths import RandomWidths
from nas.training.supernet_training import train_supernet

_TRAINED = 3.0  # time of a training image, relative to an evaluated one
_NEAR = 1.03  # a search finds the best architectures for latencies down to its budget over this
_AGAIN = 4  # a search near another latency has the recipe's evaluations over this


class OneShotSearcher(SupernetSearcher):
    """Base of the searchers that get scores from a supernet; each one names its black box.

    Raises:
        InvalidValueError: The strategy does not draw paths.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = OneShotRecipe
    has_crew: ClassVar[bool] = True

    def __init__(self, priced: PricedSpace | SearchSpace, settings: SearchSettings) -> None:
        super().__init__(priced, settings)
        self.recipe = recipe_of(settings, OneShotRecipe)
        require_several(settings.crew, self.recipe.at_once)
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
            parts=divided(data, self.recipe.held_out, seed=self.settings.seed),
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
        train, selection = divided(data, self.recipe.held_out, seed=self.settings.seed)
        evaluated = self.recipe.evaluations * max(1, len(targets_ms)) * len(selection)
        parts = [
            Phase("encode", 0.02 * evaluated),
            Phase("train", _TRAINED * self.recipe.epochs * len(train)),
            Phase("score", float(evaluated)),
        ]
        for number, _ in enumerate(targets_ms):
            parts += measuring_phases(str(number), self.settings.measure)
        with Phases(progress, parts) as phases:
            return self._search_in(phases, data, (train, selection), targets_ms, folder)

    def _search_in(
        self,
        phases: Phases,
        data: ImageData,
        images: tuple[Source, Source],
        targets_ms: Sequence[float],
        folder: RunFolder,
    ) -> list[SearchResult]:
        train, selection = images
        phases["encode"](0.0, "encoding the space")
        asked = budgets_of(targets_ms)
        encoded = [EncodedSpace(self.constraint(target_ms)) for target_ms in asked]
        criterion = self.train(data, folder, progress=phases["train"])
        own = SupernetEvaluator(
            self.supernet, data, criterion=criterion, calibration=train, selection=selection
        )
        crew, gpu = self.settings.crew, self.torch_device.is_gpu
        with crewed(own, crew, at_once=self.recipe.at_once, gpu=gpu) as evaluator:
            journal = Journaled(evaluator, evaluations_file(folder.path))
            return self._search_scored(phases, journal, task_of(data), encoded, targets_ms, folder)

    def _search_scored(
        self,
        phases: Phases,
        journal: Journaled,
        task: Task,
        encoded: Sequence[EncodedSpace],
        targets_ms: Sequence[float],
        folder: RunFolder,
    ) -> list[SearchResult]:
        asked = budgets_of(targets_ms)
        loosest = encoded[int(np.argmax(targets_ms or [0.0]))]

        def scores(codes: Sequence[Code]) -> Iterator[float]:
            return journal.scores([loosest.decode(code) for code in codes])

        scored = _Scored(scores, lambda fitness: f"{task.fitness_name} {task.shown(fitness)}")
        measure = self.settings.measure
        known = self._ask(encoded, loosest, scored, progress=phases["score"])
        results = []
        for number, (constrained, target_ms) in enumerate(zip(encoded, asked, strict=True)):
            correction: Correction[ScoredFit] | None = None
            if measure is None or target_ms is None:
                best = self._best(constrained, known, scored)
            else:
                measuring = phases[f"measure {number}"]
                correction = verify_proposals(
                    self.priced,
                    self._proposals(target_ms, known, scored, measuring),
                    target_ms,
                    measure=measure,
                    folder=folder,
                    score=lambda fitted: fitted.score,
                    progress=measuring,
                )
                best = constrained.encode(correction.fit.architecture)
            result = SearchResult(
                target_ms,
                constrained.latency_ms(best),
                known[best],
                constrained.decode(best),
                correction=correction,
            )
            results.append(kept(result, folder, self.devices, step=len(known)))
        return results

    def _best(self, constrained: EncodedSpace, known: dict[Code, float], scored: _Scored) -> Code:
        """The encoding of the best known score within a constraint."""
        feasible = [code for code in known if constrained.feasible(code)]
        if not feasible:  # the front has no architecture under this target
            lightest = constrained.canonical(constrained.lightest)
            feasible, known[lightest] = [lightest], scored.score(lightest)
        return max(feasible, key=known.__getitem__)

    def _proposals(
        self, target_ms: float, known: dict[Code, float], scored: _Scored, progress: Progress
    ) -> Propose[ScoredFit]:
        """A function that proposes the architecture of the best score for a latency.

        If no search was made near that latency, it searches there first, with a part of the
        evaluations. New scores are added to ``known``.
        """
        searched_ms = [target_ms]

        def propose(aim_ms: float, width_range_ms: Range) -> ScoredFit:
            encoded = EncodedSpace(self.constraint(target_ms, aim_ms=aim_ms))
            if not any(aim_ms <= ms <= _NEAR * aim_ms for ms in searched_ms):
                searched_ms.append(_NEAR * aim_ms)
                wider = EncodedSpace(self.constraint(target_ms, aim_ms=searched_ms[-1]))
                share = self.recipe.evaluations // _AGAIN + 1
                known.update(
                    self._ask(
                        [wider],
                        wider,
                        scored,
                        known=known,
                        evaluations=share,
                        progress=lambda _, words: progress(0.0, words),
                    )
                )
            best = self._best(encoded, known, scored)
            made = encoded.decode(best)
            plain = fixed(made, self.priced.latency_ms(made))
            return ScoredFit(**vars(plain), score=known[best])

        return propose

    def _ask(
        self,
        encoded: Sequence[EncodedSpace],
        loosest: EncodedSpace,
        scored: _Scored,
        *,
        known: Mapping[Code, float] | None = None,
        evaluations: int | None = None,
        progress: Progress,
    ) -> dict[Code, float]:
        """Search under each target, or once under the loosest one if that gives a whole front.

        Args:
            encoded: The space under each target.
            loosest: The space under the largest target.
            scored: Gives the scores.
            known: Scores that are known already.
            evaluations: Number of architectures for each target; None takes the recipe's.
            progress: Callback that reports the progress.
        """
        family = self.black_box
        searched = [loosest] if family.whole_front else encoded
        count = (evaluations or self.recipe.evaluations) * len(encoded) // len(searched)
        found: dict[Code, float] = dict(known or {})
        for index, constrained in enumerate(searched):
            black_box = family(
                constrained, seed=self.settings.seed, variation=self.recipe.variation
            )
            for code, known_score in found.items():
                if constrained.feasible(code):
                    black_box.tell(code, known_score)

            def report(done: float, words: str, index: int = index) -> None:
                progress((index + done) / len(searched), words)

            run(
                black_box,
                scored.scores,
                count,
                at_once=self.recipe.at_once,
                shown=scored.shown,
                progress=report,
            )
            found |= black_box.scores
        return found


@dataclass(frozen=True)
class ScoredFit(Fit):
    """An architecture at its latency, with its score."""

    score: float


@dataclass(frozen=True)
class _Scored:
    """The scores of encodings, in their order, and the text of a score."""

    scores: Callable[[Sequence[Code]], Iterator[float]]
    shown: Callable[[float], str]

    def score(self, code: Code) -> float:
        """The score of one encoding."""
        return next(self.scores([code]))


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
