"""TF-NAS (Hu, Wu & He, ECCV 2020): differentiable search under a precise latency.

Operation: bi-sampling. A weight step trains the path that Gumbel-argmax draws and a second path
drawn uniformly from the other operations, so every operation is trained. Depth: sink-connecting.
Width: after each epoch elasticity scaling brings the derived architecture to the target.

Every variant that the paper compares is a setting of the recipe (``TFNASRecipe``): Table 3 is
``second_path``, Table 4 is ``depth``, Table 5 is ``latency_objective`` and ``elasticity``, and
Table 2 has networks without ``squeeze_excite``.

Spaces without elastic widths are searched in the same way, without scaling: operations by
bi-sampling, and depth if it is elastic. The result is the most probable architecture below the
target. Such a supernet has norms with running statistics, calibrated before an evaluation.

Decisions where the paper gives no detail or differs from its code (docs/papers.md has all of them):

* The latency loss is ``|LAT / target - 1|`` times 0.1, as in the code; the paper's Eq. 9,
  ``max(LAT / target - 1, 0)``, lets the search end far below its budget.
* A second path differs from the first in every layer: it is drawn from the other operations. For
  ``gumbel`` that is a Gumbel draw, for ``min-alpha`` and ``max-alpha`` the extreme of the others.
* The two paths' losses are summed and the gradient is clipped once, as in the code.
* Betas are relaxed by a plain softmax without noise in both steps, as in the code.
* Alphas and betas are projected to log probabilities after every step, as in the code.
* The gradients of alphas and betas are clipped together, and optimisers are reset at every epoch,
  as in the code.
* A new width takes the channels of largest L1 norm among all, as in the code.
* The output of a path is not multiplied by its weight in weight steps, as in the code. With
  ``skip-beside`` the input that bypasses a layer is multiplied, because keeping a layer is not
  drawn.
* Warm-up (a ninth of the epochs) does not depend on the target and is done once for all of them.
* Operations that a step does not sample get no weight decay and no momentum either.
* The result is the most probable architecture that can be scaled to just below the target
  (``nas.searchers.derivation``). The result of the code, the argmax without regard to latency, is
  reported too.
* With measurement in the loop the result is the most probable architecture that is measured just
  below the target. The run folder keeps every round, so an interrupted correction goes on, and a
  finished search can be corrected later.

After a short search betas are still nearly uniform, because they begin uniform and move by at most
``alpha_lr`` a step. The argmax of nearly uniform betas is noise. The relaxation is correct: the
gradient of betas equals finite differences (``tests/nas/searchers/test_tfnas.py``).

Data parallel under ``torchrun``: every process draws the same batches, paths and noise, computes
on its part of each batch (including batch norm) and averages gradients, so all have the same state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from latbench.progress import Phase, Phases, Progress
from nas.criteria.hardware import objective_of
from nas.data.fit import divided
from nas.data.images import ImageData, Source, generator
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.correction import Correction
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import expected_latency_ms, path_of
from nas.latency.width_scaling import fit_greedy
from nas.recipes import Recipe
from nas.searchers.base import Searcher, SearchSettings, recipe_of
from nas.searchers.derivation import (
    Derived,
    architecture_at,
    derive,
    most_probable,
    proposals,
)
from nas.searchers.results import Argmax, SearchResult, kept
from nas.searchers.tfnas.choices import Choices
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.searchers.tfnas.state import SearchState
from nas.searchers.verifying import measuring_phases, verify_proposals
from nas.supernet.mixed_operations import has_widths, require_separate
from nas.tasks import Task, task_of
from nas.training.bilevel import EpochResult
from nas.training.bilevel_settings import Objective, Plan, Streams
from nas.training.criterion import criterion_of
from nas.training.epochs import Values, resume
from nas.training.run_files import phase_of
from nas.training.run_folder import RunFolder
from nas.training.steps import TrainingImages

__all__ = ["SearchState", "TFNASRecipe", "TFNASSearcher"]

_WARMUP = "warmup"
_DERIVED = 0.05  # time of a derivation or an evaluation, relative to the training


class TFNASSearcher(Searcher):
    """The search of TF-NAS, for each target in turn.

    Raises:
        InvalidValueError: The space has unified blocks, or layers that cannot be left out in the
            way of the recipe's ``depth``.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = TFNASRecipe
    parallel: ClassVar[bool] = True
    corrects_on_device: ClassVar[bool] = True
    trains_choices: ClassVar[bool] = True

    def __init__(self, priced: PricedSpace, settings: SearchSettings) -> None:
        recipe = recipe_of(settings, TFNASRecipe)
        super().__init__(self.bounded([priced], recipe)[0], settings)
        require_separate(self.space)
        Choices(self.space, recipe.depth)
        self.recipe = recipe
        self.workers = settings.workers
        self.scales = recipe.elasticity and self.space.elastic_width
        self.objective = objective_of(self.recipe.latency_objective)

    @classmethod
    def bounded(cls, devices: Sequence[PricedSpace], recipe: Recipe | None) -> list[PricedSpace]:
        if not isinstance(recipe, TFNASRecipe) or recipe.squeeze_excite:
            return list(devices)
        return [each.only(lambda op: not op.endswith("_se")) for each in devices]

    def begin(self, criterion: nn.Module | None = None) -> SearchState:
        """State of a search before its first step. The default loss is cross entropy."""
        return SearchState(
            self.priced.space,
            self.recipe,
            criterion or nn.CrossEntropyLoss(),
            self.settings.seed,
            torch_device=self.torch_device,
            workers=self.workers,
        )

    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        recipe, warmup = self.recipe, self.recipe.warmup_epochs
        train, held_out = divided(data, recipe.held_out, seed=self.settings.seed)
        images = replace(
            TrainingImages.of(
                data, train, recipe, workers=self.workers, torch_device=self.torch_device
            ),
            least_area=recipe.least_area,
            jitter=recipe.jitter,
            hue=recipe.hue,
        )
        task = task_of(data, self.torch_device.device)
        work = _Work(images, held_out, task, folder)
        parts = [Phase("warm-up", float(warmup))]
        for target_ms in targets_ms:
            parts += self._phases(phase_of(target_ms))
        with Phases(progress, parts) as phases:
            phases["warm-up"](0.0, "making the supernet")
            self._warm_up(work, phases["warm-up"])
            return [
                self._search_one(work, target_ms, index, phases)
                for index, target_ms in enumerate(targets_ms)
            ]

    def _phases(self, name: str) -> list[Phase]:
        """Phases of the search for one target."""
        searching = float(self.recipe.epochs - self.recipe.warmup_epochs)
        return [
            Phase(f"train {name}", searching),
            Phase(f"derive {name}", _DERIVED * searching),
            *measuring_phases(name, self.settings.measure),
            Phase(f"score {name}", _DERIVED * searching),
        ]

    def _warm_up(self, work: _Work, progress: Progress) -> None:
        state = self._begin(work, _WARMUP)

        def described(result: EpochResult) -> Values:
            return {"loss": result.loss, "tau": state.strategy.tau, "lr": result.lr}

        state.run(
            self._plan(work, stream=0),
            work.folder,
            phase=_WARMUP,
            last=self.recipe.warmup_epochs,
            end_epoch=described,
            progress=progress,
        )

    def _train(self, work: _Work, target_ms: float, index: int, progress: Progress) -> SearchState:
        """State at the end of the search for a target; goes on from warm-up or a checkpoint."""
        phase = phase_of(target_ms)
        state = self._begin(work, phase, _WARMUP)

        def scaled(result: EpochResult) -> Values:
            expected_ms = None if result.cost is None else float(result.cost)
            values: Values = {"loss": result.loss, "tau": state.strategy.tau, "lr": result.lr}
            return {**values, "expected_ms": expected_ms, **self.scale(state, target_ms)}

        epochs, warmup = self.recipe.epochs, self.recipe.warmup_epochs

        def searching(fraction: float, words: str, /) -> None:  # the warm-up is in the fraction
            progress((fraction * epochs - warmup) / max(1, epochs - warmup), words)

        objective = self.objective_at(state, target_ms)
        plan = self._plan(work, stream=index + 1, objective=objective)
        state.run(plan, work.folder, phase=phase, end_epoch=scaled, progress=searching)
        return state

    def _search_one(
        self, work: _Work, target_ms: float, index: int, phases: Phases
    ) -> SearchResult:
        name, measure = phase_of(target_ms), self.settings.measure
        phases[f"train {name}"](0.0, "going on from the warm-up")
        state = self._train(work, target_ms, index, phases[f"train {name}"])
        phases[f"derive {name}"](0.0, "deriving the architecture")
        log, widths = state.choices.log_probabilities(), state.supernet.widths()
        likeliest = architecture_at(self.priced.space, most_probable(log), widths)
        argmax = Argmax(self.priced.latency_ms(likeliest), likeliest)
        correction: Correction[Derived] | None = None
        if measure is not None:
            correction = verify_proposals(
                self.priced,
                proposals(self.priced, log, widths=widths, elastic=self.scales),
                target_ms,
                measure=measure,
                folder=work.folder,
                progress=phases[f"measure {name}"],
            )
            found = correction.fit
        else:
            found = derive(
                self.priced,
                log,
                widths=widths,
                target_ms=target_ms,
                elastic=self.scales,
            )
        phases[f"score {name}"](0.0, "evaluating the architecture")
        state.set_widths(found.architecture, found.places)
        score = self._fitness(state, work, found)
        result = SearchResult(
            target_ms,
            found.latency_ms,
            score,
            found.architecture,
            argmax=argmax,
            correction=correction,
        )
        return kept(
            result, work.folder, self.devices, step=self.recipe.epochs, workers=self.workers
        )

    def _begin(self, work: _Work, *checkpoints: str) -> SearchState:
        outputs, seed = self.priced.space.classes, self.settings.seed
        state = self.begin(criterion_of(work.images.data, outputs, self.recipe, seed=seed))
        resume(state, work.folder, *checkpoints)
        return state

    def objective_at(self, state: SearchState, target_ms: float) -> Objective:
        """Objective of architecture steps: the loss combined with the expected latency."""
        return Objective(
            lambda relaxed: expected_latency_ms(self.priced, relaxed, state.supernet.widths()),
            lambda loss, latency_ms: self.objective(loss, latency_ms, target_ms),
            cost_first=True,
        )

    def _plan(self, work: _Work, *, stream: int, objective: Objective | None = None) -> Plan:
        """Plan of the warm-up, or with an objective that of the search for a target."""
        recipe, seed = self.recipe, self.settings.seed

        def streams(epoch: int) -> Streams:
            order, noise, shifts, others = (generator(seed, stream, epoch, use) for use in range(4))
            return Streams(order, shifts, noise, others)

        return Plan(
            images=work.images,
            streams=streams,
            epochs=recipe.epochs,
            lr=recipe.lr,
            held_out=None if objective is None else work.held_out,
            alpha_every=recipe.alpha_every,
            objective=objective,
        )

    def scale(self, state: SearchState, target_ms: float) -> dict[str, float | None]:
        """Scale the derived architecture to the target, if widths are elastic; describe it.

        Returns:
            Latency ``argmax_ms`` before and ``derived_ms`` after scaling, actual and expected
            number of layers, entropies in nats, and the number of layers of each operation.
        """
        space, choices = self.priced.space, state.choices
        places = most_probable(choices.log_probabilities())
        derived = architecture_at(space, places, state.supernet.widths())
        latency_ms = scaled_ms = self.priced.latency_ms(derived)
        if self.scales:
            fitted = fit_greedy(self.priced, derived, target_ms, clamp=True)
            scaled_ms = fitted.latency_ms
            state.set_widths(fitted.architecture, places)
        alpha_entropy, beta_entropy = choices.entropies()
        values: dict[str, float | None] = {
            "argmax_ms": latency_ms,
            "derived_ms": scaled_ms,
            "layers": len(derived.choices),
            "expected_layers": choices.expected_depth(),
            "alpha_entropy": alpha_entropy,
            "beta_entropy": beta_entropy,
        }
        counts = dict.fromkeys((op for layer in space.layers for op in layer.ops), 0)
        counts |= Counter(choice.op for choice in derived.choices)
        return values | {f"layers_of_{op}": float(count) for op, count in counts.items()}

    def _fitness(self, state: SearchState, work: _Work, found: Derived) -> float:
        """Fitness of the result on the held-out images.

        Norms without parameters use the statistics of each batch, as in the search, so all batches
        have nearly one size. Running statistics are calibrated on training images before.
        """
        supernet = state.supernet
        if has_widths(self.priced.space):
            path = path_of(found.places)
            return work.task.mean_fitness(
                lambda images: supernet(images, path), work.held_out, state.criterion, even=True
            )
        evaluator = SupernetEvaluator(
            supernet,
            work.images.data,
            criterion=state.criterion,
            calibration=work.images.source,
            selection=work.held_out,
        )
        return evaluator.evaluate(supernet.cut(found.architecture, found.places))


@dataclass(frozen=True)
class _Work:
    images: TrainingImages
    held_out: Source
    task: Task
    folder: RunFolder
