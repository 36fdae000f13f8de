"""TF-NAS: rethinking three search freedoms of latency-constrained differentiable NAS
(Hu, Wu & He, ECCV 2020).

Operation: bi-sampling. A weight step trains the path that Gumbel-argmax draws and a second path
drawn uniformly from the other operations, so every operation is trained. Depth: sink-connecting.
Width: after each epoch elasticity scaling brings the derived architecture to the target.

Every variant that the paper compares is a setting of the recipe (``TFNASRecipe``): Table 3 is
``second_path``, Table 4 is ``depth``, Table 5 is ``latency_objective`` and ``elasticity``, and
Table 2 has networks without ``squeeze_excite``.

Spaces without elastic widths are searched in the same way, without scaling: operations by
bi-sampling, and depth if it is elastic. The result is the most probable architecture below the
target. Such a supernet has norms with running statistics; they are calibrated before a network is
evaluated.

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
* With measurement in the loop the result is the most probable architecture that is measured at the
  target. The run folder keeps every round, so an interrupted correction goes on, and a finished
  search can be corrected later.

After a short search betas are still nearly uniform, because they begin uniform and move by at most
``alpha_lr`` a step. The argmax of nearly uniform betas is noise. The relaxation is correct: the
gradient of betas equals finite differences (``tests/nas/searchers/test_tfnas.py``).

Data parallel under ``torchrun``: every process draws the same batches, paths and noise, computes
on its part of each batch (including batch norm) and averages gradients, so all have the same state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from latbench.blocks import Network
from latbench.files import write_atomically
from latbench.progress import Progress
from nas.criteria.hardware import objective_of
from nas.data.images import ImageData, Source, generator, require_images
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.correction import Correction, Measure, Propose, Rounds, correct_on_device
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Relaxed, expected_latency_ms, path_of
from nas.latency.width_scaling import fit_greedy
from nas.recipes import Recipe
from nas.searchers.base import (
    Argmax,
    Searcher,
    SearchResult,
    SearchSettings,
    architecture_file,
    phase_of,
    recipe_of,
    rounds_file,
)
from nas.searchers.derivation import (
    Derived,
    architecture_at,
    derive,
    most_probable,
    proposals,
)
from nas.searchers.tfnas.choices import Choices
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.searchers.tfnas.state import SearchState
from nas.spaces.architecture import read_architecture
from nas.supernet.mixed_operations import has_widths, require_separate
from nas.tasks import Task, task_of
from nas.training.criterion import criterion_of
from nas.training.epochs import (
    Report,
    TrainingImages,
    Values,
    resume,
    run_epochs,
)
from nas.training.optimizer import cosine, set_lr
from nas.training.run_folder import RunFolder
from nas.training.strategies.base import on_device

__all__ = ["SearchState", "TFNASRecipe", "TFNASSearcher"]

_WARMUP = "warmup"


class TFNASSearcher(Searcher):
    """The search of TF-NAS, for each target in turn.

    Raises:
        InvalidValueError: The space has unified blocks, or layers that cannot be left out in the
            way of the recipe's ``depth``.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = TFNASRecipe
    parallel: ClassVar[bool] = True
    corrects_on_device: ClassVar[bool] = True

    def __init__(self, priced: PricedSpace, settings: SearchSettings) -> None:
        recipe = recipe_of(settings, TFNASRecipe)
        if not recipe.squeeze_excite:
            priced = priced.only(lambda op: not op.endswith("_se"))
        super().__init__(priced, settings)
        require_separate(priced.space)
        Choices(priced.space, recipe.depth)
        self.recipe = recipe
        self.workers = settings.workers
        self.scales = recipe.elasticity and priced.space.elastic_width
        self.objective = objective_of(self.recipe.latency_objective)

    def begin(self, criterion: nn.Module | None = None) -> SearchState:
        """State of a search before its first step. The default loss is cross entropy."""
        return SearchState(
            self.priced.space,
            self.recipe,
            criterion or nn.CrossEntropyLoss(),
            self.settings.seed,
            torch_device=self.torch_device,
        )

    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        recipe, warmup = self.recipe, self.recipe.warmup_epochs
        train, held_out = data.held_out(recipe.held_out, seed=self.settings.seed)
        require_images(data, train, held_out)
        images = TrainingImages(
            data,
            train,
            recipe.batch_size,
            recipe.shift,
            self.workers,
            per_class=recipe.per_class,
            least_area=recipe.least_area,
            jitter=recipe.jitter,
            hue=recipe.hue,
            torch_device=self.torch_device,
        )
        task = task_of(data, self.torch_device.device)
        work = _Work(images, held_out, task, folder)
        searching = recipe.epochs - warmup
        total = warmup + len(targets_ms) * searching

        def part(first: int, count: int) -> Progress:
            return lambda fraction, words: progress((first + fraction * count) / total, words)

        self._warm_up(work, part(0, warmup))
        return [
            self._search_one(work, target_ms, index, part(index * searching, recipe.epochs))
            for index, target_ms in enumerate(targets_ms)
        ]

    def _warm_up(self, work: _Work, progress: Progress) -> None:
        state = self._begin(work, _WARMUP)
        run_epochs(
            state,
            self.recipe.warmup_epochs,
            lambda report: self._epoch(state, work, report, stream=0),
            work.folder,
            phase=_WARMUP,
            workers=self.workers,
            torch_device=self.torch_device,
            batch_size=self.recipe.batch_size,
            progress=progress,
        )

    def _search_one(
        self, work: _Work, target_ms: float, index: int, progress: Progress
    ) -> SearchResult:
        phase = phase_of(target_ms)
        state = self._begin(work, phase, _WARMUP)
        run_epochs(
            state,
            self.recipe.epochs,
            lambda report: self._epoch(state, work, report, stream=index + 1, target_ms=target_ms),
            work.folder,
            phase=phase,
            workers=self.workers,
            torch_device=self.torch_device,
            batch_size=self.recipe.batch_size,
            progress=progress,
        )
        log, widths = state.choices.log_probabilities(), state.supernet.widths()
        likeliest = architecture_at(self.priced.space, most_probable(log), widths)
        argmax = Argmax(self.priced.latency_ms(likeliest), likeliest)
        correction: Correction[Derived] | None = None
        if self.settings.measure is not None:
            propose = proposals(self.priced, log, widths=widths, elastic=self.scales)
            correction = self._correct_on_device(
                work.folder, self.settings.measure, propose, target_ms, progress
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
        file = architecture_file(work.folder.path, target_ms)
        if self.workers.leads:
            write_atomically(file, found.architecture.to_json())
            write_atomically(work.folder.path / "argmax" / file.name, likeliest.to_json())
        self.workers.wait()
        state.set_widths(found.architecture, found.places)
        score = self._fitness(state, work, found)
        return SearchResult(
            target_ms,
            found.latency_ms,
            score,
            read_architecture(file),
            argmax=argmax,
            correction=correction,
        )

    def _correct_on_device(
        self,
        folder: RunFolder,
        measure: Measure,
        propose: Propose[Derived],
        target_ms: float,
        progress: Progress,
    ) -> Correction[Derived]:
        """Correct proposals until the measured latency meets the target."""
        phase = phase_of(target_ms)

        def measure_ms(network: Network) -> float:
            return measure(network, lambda _, words: progress(1.0, f"{phase}, {words}"))

        with folder.metrics() as metrics:
            rounds = Rounds(
                rounds_file(folder.path, target_ms),
                self.priced,
                measure_ms,
                lambda number, values: metrics.log(f"{phase}-measured", number, values),
            )
            return correct_on_device(self.priced, propose, target_ms, rounds)

    def _begin(self, work: _Work, *checkpoints: str) -> SearchState:
        outputs, seed = self.priced.space.classes, self.settings.seed
        state = self.begin(criterion_of(work.images.data, outputs, self.recipe, seed=seed))
        resume(state, work.folder, *checkpoints)
        return state

    def _epoch(
        self,
        state: SearchState,
        work: _Work,
        report: Report,
        *,
        stream: int,
        target_ms: float | None = None,
    ) -> Values:
        """One epoch of weight steps; with a target also of architecture steps and scaling."""
        recipe, seed, epoch = self.recipe, self.settings.seed, state.epoch
        state.begin_epoch()
        order, noise, shifts, others = (generator(seed, stream, epoch, use) for use in range(4))
        tau = recipe.tau(epoch)
        lr = cosine(recipe.lr, epoch / recipe.epochs)
        set_lr(state.sgd, lr)
        selection = work.images.unaugmented(work.held_out, others)
        expected_ms: float | None = None

        def step(number: int, x: Tensor, labels: Tensor) -> Tensor:
            nonlocal expected_ms
            loss = self.weight_step(state, x, labels, noise, tau, both=target_ms is not None)
            if target_ms is not None and number % recipe.alpha_every == 0:
                expected_ms = self.architecture_step(state, *next(selection), noise, tau, target_ms)
            return loss

        loss = work.images.show(step, report, order=order, shifts=shifts)
        self.workers.average_buffers(state.supernet)
        values: Values = {"loss": loss, "tau": tau, "lr": lr}
        if target_ms is not None:
            values["expected_ms"] = expected_ms
            values |= self.scale(state, target_ms)
        return values

    def weight_step(
        self,
        state: SearchState,
        x: Tensor,
        labels: Tensor,
        noise: torch.Generator,
        tau: float,
        *,
        both: bool,
    ) -> Tensor:
        """Train the Gumbel path and, with ``both``, a second one; return the first's loss."""
        first = state.choices.draw_first(noise, tau)
        paths = [first]
        if both and self.recipe.second_path != "none":
            second = self.recipe.second_path
            paths.append(state.choices.draw_second(first, second, noise, tau))
        return self.train_paths(state, x, labels, [state.choices.path(path) for path in paths])

    def train_paths(
        self, state: SearchState, x: Tensor, labels: Tensor, paths: Sequence[Relaxed]
    ) -> Tensor:
        """One update by the summed gradients of some paths; return the first one's loss."""
        state.sgd.zero_grad(set_to_none=True)
        losses = []
        for path in paths:
            loss = self._task_loss(state, x, labels, path)
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self.workers.average_gradients(state.weights)
        state.scaler.unscale_(state.sgd)
        nn.utils.clip_grad_norm_(state.weights, self.recipe.clip)
        state.scaler.step(state.sgd)
        state.scaler.update()
        return losses[0]

    def architecture_step(
        self,
        state: SearchState,
        x: Tensor,
        labels: Tensor,
        noise: torch.Generator,
        tau: float,
        target_ms: float,
    ) -> float:
        """Update alpha and beta; return the expected latency before the step in ms."""
        relaxed = state.choices.soft(noise, tau)
        latency_ms = expected_latency_ms(self.priced, relaxed, state.supernet.widths())
        self.move_choices(state, x, labels, relaxed, latency_ms, target_ms)
        return float(latency_ms.detach())

    def move_choices(
        self,
        state: SearchState,
        x: Tensor,
        labels: Tensor,
        relaxed: Relaxed,
        latency_ms: Tensor,
        target_ms: float,
    ) -> None:
        """Update alpha and beta by the loss of a relaxation and its expected latency."""
        relaxed, (latency_ms,) = on_device(relaxed, x.device, latency_ms)
        state.adam.zero_grad(set_to_none=True)
        state.supernet.requires_grad_(False)  # no backward for frozen weights
        state.criterion.requires_grad_(False)
        loss = self._task_loss(state, x, labels, relaxed)
        total = self.objective(loss, latency_ms, target_ms)
        state.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        state.supernet.requires_grad_(True)
        state.criterion.requires_grad_(True)
        self.workers.average_gradients(state.choices.parameters())
        state.scaler.unscale_(state.adam)
        if self.recipe.alpha_clip:
            nn.utils.clip_grad_norm_(state.choices.parameters(), self.recipe.alpha_clip)
        state.scaler.step(state.adam)
        state.scaler.update()
        state.choices.project()

    def _task_loss(self, state: SearchState, x: Tensor, labels: Tensor, relaxed: Relaxed) -> Tensor:
        with self.torch_device.autocast():
            loss: Tensor = state.criterion(state.supernet(x, relaxed), labels)
        return loss

    def scale(self, state: SearchState, target_ms: float) -> dict[str, float | None]:
        """Scale the derived architecture to the target, if widths are elastic; describe it.

        Returns:
            Latency ``argmax_ms`` before and ``derived_ms`` after scaling, actual and expected
            number of layers, entropies in nats, and the number of layers of each operation.
        """
        space, choices = self.priced.space, state.choices
        places = most_probable(choices.log_probabilities())
        derived = architecture_at(space, places, state.supernet.widths())
        latency_ms = self.priced.latency_ms(derived)
        scaled_ms = latency_ms
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
        counts = Counter(choice.op for choice in derived.choices)
        ops = dict.fromkeys(op for layer in space.layers for op in layer.ops)
        return values | {f"layers_of_{op}": float(counts[op]) for op in ops}

    def _fitness(self, state: SearchState, work: _Work, found: Derived) -> float:
        """Fitness of the result on the held-out images.

        Norms without parameters use the statistics of each batch, as in the search. Running
        statistics are calibrated on training images before.
        """
        supernet = state.supernet
        if has_widths(self.priced.space):
            path = path_of(found.places)
            return work.task.mean_fitness(
                lambda images: supernet(images, path), work.held_out, state.criterion
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
