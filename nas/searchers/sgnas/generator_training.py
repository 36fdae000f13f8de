"""Training an architecture generator by a frozen supernet: the second half of SGNAS.

The generator gets a budget, its choices are relaxed by Gumbel softmax, and it learns from the
supernet's loss on images that the supernet was not trained on, and from how far the expected cost
is from the budget. Of all epochs, and of the imitation before them, the generator is kept whose
answers, brought under their budgets, are the most accurate on images that neither training has
seen.

Glossary:

    tau   temperature of Gumbel softmax, 5 at the start
    f, t  expected cost and budget, in parts of the trained range x 180

Choices where this differs from the published code, or where that knows MACs only:

* The hardware loss is the published one, ``3e-4 (f - t)^2``, times 1.2 above the budget and 0
  within 0.1 of it. Its unit is a million MACs, and the published range is 180 of them; here the
  trained range of every kind of budget on every device counts as 180.
* f is the exact expectation over outcomes (``nas.generator.planes``), never a sum over sub-blocks.
  It is of the generator's own probabilities, the mean of all networks that may be drawn, where a
  draw's would be noisy. Of two budgets the one that is exceeded most counts.
* Budgets are 0.05 to 0.95 of what the space reaches on a device, not a part of it.
* Priors are found for the supernet at hand (``nas.searchers.sgnas.priors``); there are five.
* Before the first epoch the generator may learn to give its priors (``imitation_steps``).
* The supernet is in evaluation mode and without gradients to its weights.

Under ``torchrun`` every process draws the same budgets and noise, computes on its part of each
batch and averages gradients. Each judges its part of the images that select, so that all have the
same scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Self

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor

from latbench.progress import Progress
from nas.data.images import ImageData, generator
from nas.evaluators.base import Evaluator
from nas.evaluators.journal import Journaled
from nas.evaluators.relaxed import RelaxedJudge
from nas.generator import Generator, GeneratorLabel, Kind, Request, answers
from nas.latency.priced_space import space_label
from nas.recipes import Count, Fraction, Positive
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.priors import find_priors
from nas.spaces import SearchSpace
from nas.training.epochs import (
    Report,
    Resumable,
    TrainingImages,
    Values,
    resume,
    run_epochs,
    scaler_part,
)
from nas.training.run_folder import RunFolder
from nas.training.strategies.gumbel import gumbel_noise
from nas.training.unified_training import UnifiedRecipe

_PHASE = "generator"
_PRIORS_FILE = "priors.jsonl"  # in a run's folder: networks that were judged to become one
_STREAM = 7  # keeps the generator's draws apart from the supernet's under the same seed
_JUDGED = 12  # images that can be judged in the time of training a generator on one
_IMITATED = 16  # requests that an imitation step answers


class SGNASRecipe(UnifiedRecipe, frozen=True, kw_only=True, tag="sgnas"):
    """How supernet and generator are trained.

    The defaults are the published values for ImageNet, but for the range of budgets and the number
    of priors. docs/papers.md lists the differences.

    Attributes:
        generator_epochs: Epochs of the generator, over the images held out from the supernet.
        generator_lr: Learning rate of Adam.
        generator_betas: Decay rates of Adam's moments.
        tau_start: Temperature in the first epoch; then it falls geometrically.
        tau_end: Temperature in the last epoch; 5 x 0.95 ** 49 in the published code.
        low: Lower end of the budgets, a fraction of what the space reaches.
        high: Their upper end.
        strategy: Which paths train a supernet of separate operations, a name in ``STRATEGIES``;
            uniform ones if empty. A unified supernet has fair paths of its own.
        budgets: Number of budgets of each kind, spread over the range; published are 270 to 450
            by 5.
        jitter: Largest distance from these, in steps; published is 0.5 of 5.
        hardware_weight: Factor of the squared distance from the budget.
        overshoot: Factor of the hardware loss above the budget.
        tolerance: Distance that costs nothing.
        priors: Known networks, spread over the range.
        prior_candidates: Networks that are judged for each.
        imitation_steps: Steps before the first epoch, without images: each teaches the generator
            to give the priors nearest to some budgets, with the hardware loss added; published
            are none.
        selected_on: Answers that are judged after an epoch.
    """

    strategy: str = ""
    generator_epochs: Count = 50
    generator_lr: Positive = 1e-3
    generator_betas: tuple[float, float] = (0.5, 0.999)
    tau_start: Positive = 5.0
    tau_end: Positive = 0.405
    low: Fraction = 0.05
    high: Fraction = 0.95
    budgets: Annotated[int, msgspec.Meta(ge=2)] = 37
    jitter: Fraction = 0.1
    hardware_weight: Positive = 3e-4
    overshoot: Positive = 1.2
    tolerance: Fraction = 0.1
    priors: Count = 5
    prior_candidates: Count = 8
    imitation_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    selected_on: Count = 5

    def supernet_share(self, data: ImageData) -> float:
        """Part of the images shown that is shown to the supernet."""
        count = len(data.train)
        rest = count * self.held_out if self.held_out_from == "train" else len(data.test)
        seen = self.epochs * (count - rest if self.held_out_from == "train" else count)
        return seen / (seen + self.generator_epochs * rest * (1 - self.selection))

    def tau(self, epoch: int) -> float:
        """Temperature of an epoch."""
        progress = epoch / max(1, self.generator_epochs - 1)
        return self.tau_start * float((self.tau_end / self.tau_start) ** progress)

    def hardware_loss(self, excess: Tensor) -> Tensor:
        """Loss of an expected cost that is so far above its budget, or below."""
        # tensors, as a number would be copied to a GPU in every step
        factor = torch.where(
            excess > 0, torch.full_like(excess, self.overshoot), torch.ones_like(excess)
        )
        inside = excess.abs() <= self.tolerance
        loss = self.hardware_weight * factor * excess.square()
        return torch.where(inside, torch.zeros_like(loss), loss)

    def scaled(self, epochs: int | None, batch_size: int | None) -> Self:
        """The recipe in so many epochs of the supernet, with as many fewer of the generator."""
        made = super().scaled(epochs, batch_size)
        share = self.generator_epochs * made.epochs / self.epochs
        return msgspec.structs.replace(made, generator_epochs=max(1, round(share)))


class GeneratorTraining(Resumable):
    """The training of one generator, and everything that it changes.

    Args:
        judge: The frozen supernet.
        space: Space of the answers, in the variant that tables price.
        budgets: What is asked.
        recipe: How.
        seed: Seed of weights, priors, budgets, noise and the order of images.
        generator: To go on from, with a device that it has not learned yet, whose vector alone
            is trained; a new one where None.
    """

    def __init__(
        self,
        judge: RelaxedJudge,
        space: SearchSpace,
        budgets: Budgets,
        recipe: SGNASRecipe,
        seed: int,
        *,
        generator: Generator | None = None,
    ) -> None:
        self.judge, self.space, self.budgets = judge, space, budgets
        self.plane = budgets.plane
        self.recipe, self.seed = recipe, seed
        self.adapting = generator is not None
        self.torch_device, self.workers = judge.torch_device, judge.workers
        self.generator = (generator or self._new_generator()).to(self.torch_device.device)
        trained = [self.generator.devices] if self.adapting else self.generator.parameters()
        self.adam = torch.optim.Adam(trained, lr=recipe.generator_lr, betas=recipe.generator_betas)
        self.scaler = self.torch_device.scaler()
        super().__init__(generator=self.generator, adam=self.adam, **scaler_part(self.scaler))
        self.best_score = -math.inf
        self.best = self._copy()

    def run(self, folder: RunFolder | None, progress: Progress) -> Generator:
        """Train to the end; return the generator of the best epoch.

        Args:
            folder: Where metrics and checkpoints are kept; a run there goes on. None keeps none.
            progress: Gets the fraction done, and what is going on.
        """
        resumed = folder is not None and resume(self, folder, _PHASE)
        share = 0.0 if self.adapting else self._priors_share
        if not resumed and not self.adapting:
            self.generator.priors.copy_(
                self._find_priors(folder, lambda fraction, words: progress(share * fraction, words))
            )
            if self.recipe.imitation_steps:
                self._imitate(lambda words: progress(share, words))
                imitated = self._select()  # it may answer better than after any epoch
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
        """Part of the work that finds priors."""
        recipe, parts = self.recipe, self.judge.parts
        judged = recipe.priors * recipe.prior_candidates * len(parts.selection)
        return judged / (judged + _JUDGED * recipe.generator_epochs * len(parts.generator))

    def _imitate(self, tell: Callable[[str], None]) -> None:
        """Learn to give the prior nearest to each budget, as far as the hardware loss lets it."""
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
            if self.torch_device.is_gpu:  # which would have to be waited for
                tell(words)
            else:
                tell(f"{words}, loss {float(loss.detach()):.2f}")

    def _one_epoch(self, report: Report) -> Values:
        recipe, judge = self.recipe, self.judge
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
            judge.data,
            judge.parts.generator,
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
            The images' loss and the excess of expected cost, scalars without gradient that are
            left on the device.
        """
        logits = self.plane.masked(self.generator([request])[0])
        gumbel = gumbel_noise(logits.shape, noise).to(logits.device, non_blocking=True)
        probabilities = ((logits.log_softmax(-1) + gumbel) / tau).softmax(-1)
        with self.torch_device.autocast():
            loss = self.judge.criterion(self.judge.outputs(x, probabilities), labels)
        excess = self.budgets.excess(request, logits.softmax(-1))
        self.adam.zero_grad(set_to_none=True)
        self.scaler.scale(loss + self.recipe.hardware_loss(excess)).backward()
        if self.adapting:
            assert self.generator.devices.grad is not None
            self.generator.devices.grad[:-1] = 0  # devices that are known stay as they are
        self.workers.average_gradients(self.generator.parameters())
        self.scaler.step(self.adam)
        self.scaler.update()
        return loss.detach(), excess.detach()

    def _select(self) -> Values:
        """Judge the epoch: keep its generator if its answers are the best so far.

        Returns:
            ``score``, mean accuracy of answers under their budgets; ``kendall_tau`` between
            budgets and costs of the network's own architectures, its mean over kinds of cost;
            ``raw_error``, how far that is from the budget, a fraction.
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
        score = sum(self.judge.score(a.architecture) for a in made) / len(made)
        if score >= self.best_score:
            self.best_score, self.best = score, self._copy()
        finite = [tau for tau in taus if math.isfinite(tau)]  # undefined where all are the same
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
        """Priors, one-hot ``(priors, L, G * C)``; the folder keeps what was judged for them."""
        judge: Evaluator = self.judge
        if folder is not None:
            judge = Journaled(judge, folder.path / _PRIORS_FILE, writes=self.workers.leads)
            self.workers.wait()  # nobody writes before all have read
        found = find_priors(
            self.plane,
            self.generator.label.priors,
            self.budgets.place,
            judge,
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
