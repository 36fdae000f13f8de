"""Training of an architecture generator with a frozen supernet: the second half of SGNAS.

The generator gets a budget, and Gumbel softmax relaxes its choices. It learns from two losses: the
loss of the supernet on images that the supernet was not trained on, and the distance of the
expected cost from the budget. After imitation and after each epoch, the answers within their
budgets are evaluated on images that neither training has used. The generator with the most accurate
answers is kept.

Glossary:

    tau   temperature of Gumbel softmax, 5 at the start
    f, t  expected cost and budget, in fractions of the trained range times 180

Differences from the published code, which has MACs only:

* The hardware loss is the published one, ``3e-4 (f - t)^2``, times 1.2 above the budget and 0
  within 0.1 of it. Its unit is a million MACs, and the published range is 180 of them; here the
  trained range of every kind of budget on every device counts as 180.
* f is the exact expectation over outcomes (``nas.generator.planes``), never a sum over sub-blocks.
  It uses the generator's own probabilities, not those of a Gumbel draw, which would be noisy. With
  two budgets the one that is exceeded most counts.
* Budgets cover 0.05 to 0.95 of the feasible range on a device, not only a part of it.
* Priors are found for the present supernet (``nas.searchers.sgnas.priors``); there are five.
* Before the first epoch the generator may learn to output its priors
  (``nas.searchers.sgnas.imitation``).
* The supernet is in evaluation mode and without gradients to its weights.

Under ``torchrun`` every process draws the same budgets and noise, computes on its part of each
batch and averages gradients. Each process evaluates on its part of the selection images, and their
results are combined, so all have the same scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from latbench.progress import Phase, Phases, Progress
from nas.crew.base import NO_CREW, CrewSettings
from nas.data.images import Source, generator
from nas.evaluators.base import Evaluator
from nas.evaluators.crew import crewed
from nas.evaluators.journal import Journaled
from nas.evaluators.relaxed import AnyRelaxedEvaluator
from nas.generator import Generator, Request
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.generator_evaluation import evaluate_generator
from nas.searchers.sgnas.generator_state import GeneratorState, new_generator
from nas.searchers.sgnas.imitation import imitate
from nas.searchers.sgnas.priors import FINALISTS, best_finalists, rank_candidates
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.spaces import SearchSpace
from nas.training.criterion import loss_of
from nas.training.epochs import Values, resume, run_epochs
from nas.training.run_folder import RunFolder
from nas.training.steps import Report, TrainingImages
from nas.training.strategies.gumbel import gumbel_logits

_PHASE = "generator"
_PRIORS_FILE = "priors.jsonl"  # in the run folder: candidates for priors, evaluated on all images
_FIRST_FILE = "priors-first.jsonl"  # those that were first evaluated on a share of the images
_STREAM = 7  # separates the draws of the generator from those of the supernet under the same seed
_IMITATED = 0.0002  # time of a step of imitation, relative to all epochs
_EVALUATED = 12  # images that can be evaluated in the time of one training image of the generator


class GeneratorTraining:
    """The training of one generator.

    Args:
        evaluator: Evaluator with the frozen supernet.
        space: Space of the answers, in the variant of the tables.
        budgets: Budgets of the requests.
        recipe: Settings of the training.
        seed: Seed of weights, priors, budgets, noise and the order of images.
        generator: Generator with one more device, whose vector alone is trained; None trains a new
            generator.
        crew: Workers that evaluate the candidates for priors.
    """

    def __init__(
        self,
        evaluator: AnyRelaxedEvaluator,
        space: SearchSpace,
        budgets: Budgets,
        recipe: SGNASRecipe,
        seed: int,
        *,
        generator: Generator | None = None,
        crew: CrewSettings = NO_CREW,
    ) -> None:
        self.evaluator, self.space, self.budgets = evaluator, space, budgets
        self.plane = budgets.plane
        self.recipe, self.seed, self.crew = recipe, seed, crew
        self.adapting = generator is not None
        self.torch_device, self.workers = evaluator.torch_device, evaluator.workers
        self.state = GeneratorState(
            generator or new_generator(space, budgets, recipe=recipe, seed=seed),
            recipe,
            devices_only=self.adapting,
            torch_device=self.torch_device,
        )

    def run(self, folder: RunFolder | None, progress: Progress) -> Generator:
        """Train to the end, and return the generator of the best epoch.

        Args:
            folder: Run folder of metrics and checkpoints. A training that it contains goes on.
                None keeps no files.
            progress: Gets the fraction that is done, and a description.
        """
        share, steps = self._priors_share, self.recipe.imitation_steps
        parts = [
            Phase("priors", share),
            Phase("imitate", _IMITATED * steps * (1 - share)),
            Phase("train", 1 - share),
        ]
        with Phases(progress, parts) as phases:
            resumed = folder is not None and resume(self.state, folder, _PHASE)
            if not resumed and not self.adapting:
                phases["priors"](0.0, "drawing networks")
                priors = self._find_priors(folder, phases["priors"])
                self.state.generator.priors.copy_(priors)
                if steps:
                    self._imitate(folder, phases["imitate"])
            self._train(folder, phases["train"])
        return self.state.best_generator()

    def _train(self, folder: RunFolder | None, progress: Progress) -> None:
        """All epochs of the training."""
        run_epochs(
            self.state,
            self.recipe.generator_epochs,
            self._one_epoch,
            folder,
            phase=_PHASE,
            workers=self.workers,
            torch_device=self.torch_device,
            batch_size=self.recipe.batch_size,
            progress=progress,
        )

    @property
    def _priors_share(self) -> float:
        """Share of finding priors in the work."""
        recipe, parts = self.recipe, self.evaluator.parts
        each = 1.0 if recipe.prior_images == 1 else recipe.prior_images + 1 / FINALISTS
        evaluated = each * recipe.priors * recipe.prior_candidates * len(parts.selection)
        return evaluated / (evaluated + _EVALUATED * recipe.generator_epochs * len(parts.generator))

    def _find_priors(self, folder: RunFolder | None, progress: Progress) -> Tensor:
        """Priors, one-hot ``(priors, L, G * C)``; the folder keeps all evaluated candidates."""
        recipe, images = self.recipe, self.evaluator.parts.selection
        share = recipe.prior_images
        some = images.take(torch.arange(max(1, round(share * len(images)))))
        all_at_once = len(some) == len(images)
        parts = [Phase("candidates", recipe.prior_images), Phase("finalists", 1 / FINALISTS)]
        with Phases(progress, parts[:1] if all_at_once else parts) as phases:
            file = _PRIORS_FILE if all_at_once else _FIRST_FILE
            with self._scoring(some, folder, file, calibrated=share) as first:
                ranked = rank_candidates(
                    self.plane,
                    self.state.generator.label.priors,
                    self.budgets.place,
                    first,
                    candidates=recipe.prior_candidates,
                    rng=np.random.default_rng([self.seed, _STREAM]),
                    progress=phases["candidates"],
                )
            found = [candidates[0] for candidates in ranked]
            if not all_at_once:
                with self._scoring(images, folder, _PRIORS_FILE) as evaluator:
                    found = best_finalists(
                        self.plane, ranked, evaluator, progress=phases["finalists"]
                    )
        return self.plane.one_hot(torch.from_numpy(np.array(found)))

    @contextmanager
    def _scoring(
        self, images: Source, folder: RunFolder | None, file: str, *, calibrated: float = 1.0
    ) -> Iterator[Evaluator]:
        """An evaluator on these images, with the crew if one is asked for, and with a journal."""
        evaluator: Evaluator = self.evaluator.on(images, calibrated=calibrated)
        with ExitStack() as stack:
            if self.crew.is_asked:
                at_once = self.recipe.priors * self.recipe.prior_candidates
                gpu = self.torch_device.is_gpu
                evaluator = stack.enter_context(
                    crewed(evaluator, self.crew, at_once=at_once, gpu=gpu)
                )
            if folder is not None:
                evaluator = Journaled(evaluator, folder.path / file, writes=self.workers.leads)
                self.workers.wait()  # no process writes before all have read
            yield evaluator

    def _imitate(self, folder: RunFolder | None, progress: Progress) -> None:
        """Imitate the priors, and evaluate the result: it may be better than all epochs."""
        imitate(
            self.state,
            self.budgets,
            recipe=self.recipe,
            rng=generator(self.seed, _STREAM),
            torch_device=self.torch_device,
            workers=self.workers,
            progress=progress,
        )
        progress(1.0, "evaluating the imitation")
        imitated = self._evaluate()
        if folder is not None and self.workers.leads:
            with folder.metrics() as metrics:
                metrics.log("imitation", 0, imitated)

    def _one_epoch(self, report: Report) -> Values:
        recipe, evaluator = self.recipe, self.evaluator
        order, shifts, noise, asked = (
            generator(self.seed, _STREAM, self.state.epoch, use) for use in range(4)
        )
        requests = self.budgets.epoch(recipe.budgets, recipe.jitter, asked)
        tau = recipe.tau(self.state.epoch)
        excesses: list[Tensor] = []

        def step(number: int, x: Tensor, labels: Tensor) -> Tensor:
            loss, excess = self.step(x, labels, next(requests), noise=noise, tau=tau)
            excesses.append(excess)
            return loss

        images = TrainingImages(
            evaluator.data,
            evaluator.parts.generator,
            recipe.batch_size,
            recipe.shift,
            self.workers,
            per_class=recipe.per_class,
            torch_device=self.torch_device,
        )
        loss = images.show(step, report, order=order, shifts=shifts)
        errors = torch.stack(excesses).abs().cpu().tolist()
        expected_error = sum(errors) / len(errors)
        return {"loss": loss, "expected_error": expected_error, "tau": tau, **self._evaluate()}

    def step(
        self, x: Tensor, labels: Tensor, request: Request, *, noise: torch.Generator, tau: float
    ) -> tuple[Tensor, Tensor]:
        """One update for one budget.

        Args:
            x: Normalised images, this process's share.
            labels: Their labels.
            request: The budget.
            noise: Draws the noise of Gumbel softmax, on the CPU.
            tau: Temperature.

        Returns:
            The loss on the images and the excess of the expected cost: scalars on the device,
            without gradient.
        """
        state = self.state
        logits = self.plane.masked(state.generator([request])[0])
        probabilities = gumbel_logits(logits, noise, tau).softmax(-1)
        with self.torch_device.autocast():
            outputs = self.evaluator.outputs(x, probabilities)
        loss = loss_of(self.evaluator.criterion, outputs, labels)
        excess = self.budgets.excess(request, logits.softmax(-1))
        state.adam.zero_grad(set_to_none=True)
        state.scaler.scale(loss + self.recipe.hardware_loss(excess)).backward()  # type: ignore[no-untyped-call]
        if self.adapting:
            assert state.generator.devices.grad is not None
            state.generator.devices.grad[:-1] = 0  # the vectors of known devices do not change
        self.workers.average_gradients(state.generator.parameters())
        state.scaler.step(state.adam)
        state.scaler.update()
        return loss.detach(), excess.detach()

    def _evaluate(self) -> Values:
        """Evaluate the generator, and keep its weights if its answers are the best so far."""
        found = evaluate_generator(
            self.state.generator,
            self.evaluator,
            space=self.space,
            budgets=self.budgets,
            recipe=self.recipe,
        )
        self.state.keep_if_best(found.score)
        return asdict(found)
