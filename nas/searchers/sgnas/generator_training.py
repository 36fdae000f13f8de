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
* Before the first epoch the generator may learn to output its priors (``imitation_steps``).
* The supernet is in evaluation mode and without gradients to its weights.

Under ``torchrun`` every process draws the same budgets and noise, computes on its part of each
batch and averages gradients. Each process evaluates on its part of the selection images, and their
results are combined, so all have the same scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor

from latbench.progress import Progress
from nas.data.images import generator
from nas.evaluators.base import Evaluator
from nas.evaluators.journal import Journaled
from nas.evaluators.relaxed import AnyRelaxedEvaluator
from nas.generator import Generator, GeneratorLabel, Kind, Request, answers
from nas.latency.priced_space import space_label
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.priors import find_priors
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.spaces import SearchSpace
from nas.training.epochs import Resumable, Values, resume, run_epochs, scaler_part
from nas.training.run_folder import RunFolder
from nas.training.steps import Report, TrainingImages
from nas.training.strategies.gumbel import gumbel_noise

_PHASE = "generator"
_PRIORS_FILE = (
    "priors.jsonl"  # in the run folder: networks that were evaluated as candidates for priors
)
_STREAM = 7  # separates the draws of the generator from those of the supernet under the same seed
_EVALUATED = 12  # images that can be evaluated in the time of one training image of the generator
_IMITATED = 16  # requests in an imitation step


class GeneratorTraining(Resumable):
    """The training of one generator, with all of its state.

    Args:
        evaluator: Evaluator with the frozen supernet.
        space: Space of the answers, in the variant of the tables.
        budgets: Budgets of the requests.
        recipe: Settings of the training.
        seed: Seed of weights, priors, budgets, noise and the order of images.
        generator: Generator with one more device, whose vector alone is trained; None trains a new
            generator.
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
    ) -> None:
        self.evaluator, self.space, self.budgets = evaluator, space, budgets
        self.plane = budgets.plane
        self.recipe, self.seed = recipe, seed
        self.adapting = generator is not None
        self.torch_device, self.workers = evaluator.torch_device, evaluator.workers
        self.generator = (generator or self._new_generator()).to(self.torch_device.device)
        trained = [self.generator.devices] if self.adapting else self.generator.parameters()
        self.adam = torch.optim.Adam(trained, lr=recipe.generator_lr, betas=recipe.generator_betas)
        self.scaler = self.torch_device.scaler()
        super().__init__(generator=self.generator, adam=self.adam, **scaler_part(self.scaler))
        self.best_score = -math.inf
        self.best = self._copy()

    def run(self, folder: RunFolder | None, progress: Progress) -> Generator:
        """Train to the end, and return the generator of the best epoch.

        Args:
            folder: Run folder of metrics and checkpoints. A training that it contains goes on.
                None keeps no files.
            progress: Gets the fraction that is done, and a description.
        """
        resumed = folder is not None and resume(self, folder, _PHASE)
        share = 0.0 if self.adapting else self._priors_share
        if not resumed and not self.adapting:
            self.generator.priors.copy_(
                self._find_priors(folder, lambda fraction, words: progress(share * fraction, words))
            )
            if self.recipe.imitation_steps:
                self._imitate(lambda words: progress(share, words))
                imitated = self._select()  # imitation may be better than all epochs
                if folder is not None and self.workers.leads:
                    with folder.metrics() as metrics:
                        metrics.log("imitation", 0, imitated)
        run_epochs(
            self,
            self.recipe.generator_epochs,
            self._one_epoch,
            folder,
            phase=_PHASE,
            workers=self.workers,
            torch_device=self.torch_device,
            batch_size=self.recipe.batch_size,
            progress=lambda fraction, words: progress(share + (1 - share) * fraction, words),
        )
        self.generator.load_state_dict(self.best)
        return self.generator.eval()

    @property
    def _priors_share(self) -> float:
        """Share of finding priors in the work."""
        recipe, parts = self.recipe, self.evaluator.parts
        evaluated = recipe.priors * recipe.prior_candidates * len(parts.selection)
        return evaluated / (evaluated + _EVALUATED * recipe.generator_epochs * len(parts.generator))

    def _imitate(self, say: Callable[[str], None]) -> None:
        """Train the output towards the nearest prior of each budget, with the hardware loss."""
        recipe, known = self.recipe, self.generator.prior_choices()
        drawn = generator(self.seed, _STREAM)
        requests = self.budgets.epoch(recipe.budgets, recipe.jitter, drawn)
        for number in range(recipe.imitation_steps):
            asked = [next(requests) for _ in range(_IMITATED)]
            logits = self.plane.masked(self.generator(asked))
            wanted = known[self.generator.nearest_priors(asked).to(known.device)]
            excess = [
                self.budgets.excess(request, each)
                for request, each in zip(asked, logits.softmax(-1), strict=True)
            ]
            hardware = recipe.hardware_loss(torch.stack(excess)).mean()
            loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten()) + hardware
            self.adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.workers.average_gradients(self.generator.parameters())
            self.adam.step()
            words = f"imitation, step {number + 1} of {recipe.imitation_steps}"
            if self.torch_device.is_gpu:  # reading the loss would wait for the GPU
                say(words)
            else:
                say(f"{words}, loss {float(loss.detach()):.2f}")

    def _one_epoch(self, report: Report) -> Values:
        recipe, evaluator = self.recipe, self.evaluator
        order, shifts, noise, asked = (
            generator(self.seed, _STREAM, self.epoch, use) for use in range(4)
        )
        requests = self.budgets.epoch(recipe.budgets, recipe.jitter, asked)
        tau = recipe.tau(self.epoch)
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
        return {"loss": loss, "expected_error": expected_error, "tau": tau, **self._select()}

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
        logits = self.plane.masked(self.generator([request])[0])
        gumbel = gumbel_noise(logits.shape, noise).to(logits.device, non_blocking=True)
        probabilities = ((logits.log_softmax(-1) + gumbel) / tau).softmax(-1)
        with self.torch_device.autocast():
            loss = self.evaluator.criterion(self.evaluator.outputs(x, probabilities), labels)
        excess = self.budgets.excess(request, logits.softmax(-1))
        self.adam.zero_grad(set_to_none=True)
        self.scaler.scale(loss + self.recipe.hardware_loss(excess)).backward()
        if self.adapting:
            assert self.generator.devices.grad is not None
            self.generator.devices.grad[:-1] = 0  # the vectors of known devices do not change
        self.workers.average_gradients(self.generator.parameters())
        self.scaler.step(self.adam)
        self.scaler.update()
        return loss.detach(), excess.detach()

    def _select(self) -> Values:
        """Evaluate the epoch, and keep its generator if its answers are the best so far.

        Returns:
            ``score`` is the mean accuracy of the answers. ``kendall_tau`` is the rank correlation
            between budgets and costs of the raw output, averaged over kinds of cost.
            ``raw_error`` is the relative distance of these costs from the budgets.
        """
        rows = self.budgets.grid(self.recipe.budgets)
        taus, errors = [], []
        for row in rows:
            costs = row[0].limits[0].costs
            asked = [request.limits[0].budget for request in row]
            raw = [costs.of(self.plane.outcomes_of(each)) for each in self._decoded(row)]
            taus.append(float(kendalltau(asked, raw).statistic))
            errors += [abs(r / a - 1) for r, a in zip(raw, asked, strict=True)]
        requests = self.budgets.selected(self.recipe.selected_on)
        made = answers(self.generator, self.space, requests)
        score = sum(self.evaluator.score(a.architecture) for a in made) / len(made)
        if score >= self.best_score:
            self.best_score, self.best = score, self._copy()
        finite = [tau for tau in taus if math.isfinite(tau)]  # undefined if all costs are equal
        return {
            "score": score,
            "kendall_tau": sum(finite) / len(finite) if finite else None,
            "raw_error": sum(errors) / len(errors),
        }

    @torch.no_grad()
    def _decoded(self, requests: Sequence[Request]) -> Any:
        return self.plane.decode(self.generator(requests)).cpu().numpy()

    def _new_generator(self) -> Generator:
        recipe, plane = self.recipe, self.plane
        counted = tuple(costs.kind for costs in self.budgets.counts)
        kinds: tuple[Kind, ...] = ("latency", *counted) if self.budgets.latencies else counted
        places = np.linspace(recipe.low, recipe.high, recipe.priors + 2)[1:-1].tolist()
        label = GeneratorLabel(
            format=1,
            form="conditioned",
            space=space_label(self.space),
            low=recipe.low,
            high=recipe.high,
            kinds=kinds,
            devices=tuple(self.budgets.latencies),
            priors=tuple(places),
            plane=self.plane.name,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            width = plane.decisions * plane.choices
            return Generator(label, torch.zeros(len(places), len(self.space.layers), width))

    def _find_priors(self, folder: RunFolder | None, progress: Progress) -> Tensor:
        """Priors, one-hot ``(priors, L, G * C)``; the folder keeps all evaluated candidates."""
        evaluator: Evaluator = self.evaluator
        if folder is not None:
            evaluator = Journaled(evaluator, folder.path / _PRIORS_FILE, writes=self.workers.leads)
            self.workers.wait()  # no process writes before all have read
        found = find_priors(
            self.plane,
            self.generator.label.priors,
            self.budgets.place,
            evaluator,
            candidates=self.recipe.prior_candidates,
            rng=np.random.default_rng([self.seed, _STREAM]),
            progress=progress,
        )
        return self.plane.one_hot(torch.from_numpy(np.array(found)))

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.generator.state_dict().items()}

    def save(self) -> dict[str, Any]:
        return {**super().save(), "best": self.best, "best_score": self.best_score}

    def load(self, saved: dict[str, Any]) -> None:
        super().load(saved)
        self.best, self.best_score = saved["best"], saved["best_score"]
