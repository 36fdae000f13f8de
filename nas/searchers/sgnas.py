"""SGNAS: one generator that answers any budget (Huang & Chu, CVPR 2021), for several devices.

First the unified supernet is trained (``nas.training.unified``), then, with its weights frozen, the
generator: it is told a budget, its choices are relaxed by Gumbel softmax, and it learns from the
supernet's loss on images that the supernet was not trained on, and from how far the expected cost
is from the budget. Of all epochs the generator is kept whose answers, brought under their budgets,
are the most accurate on images that neither training has seen.

Glossary:

    tau   temperature of Gumbel softmax, 5 at the start
    f, t  expected cost and budget, in parts of the trained range x 180

Choices where this differs from the published code, or where that knows MACs only:

* The hardware loss is the published one, ``3e-4 (f - t)^2``, times 1.2 above the budget and 0
  within 0.1 of it. Its unit is a million MACs, of which the published range has 180; here every
  kind of budget on every device has its trained range counted as 180.
* f is the exact expectation over count vectors (``nas.generator.counts``), never a sum over
  sub-blocks. It is of the generator's own probabilities, the mean of all networks that may be
  drawn, where a draw's would be noisy. Of two budgets the one that is exceeded most counts.
* Budgets are 0.05 to 0.95 of what the space reaches on a device, not a part of it.
* A prior is the most accurate, with the supernet's weights, of some random networks near a place in
  the range, which is the mean over all kinds of cost; there are five.
* Before the first epoch the generator may learn to say its priors (``imitation_steps``): it does so
  first in any case, and from images that takes hundreds of steps through the supernet.
* The supernet is in evaluation mode and without gradients to its weights.
* A new device joins by learning its vector alone (``adapt``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor

from latbench.cost import Cost, block_cost
from latbench.errors import InvalidFileError
from latbench.files import write_atomically
from nas.coding import CodedSpace
from nas.constraints import Constraint, Limit, latency_limits
from nas.data.images import ImageData, generator
from nas.evaluators.base import Evaluator
from nas.evaluators.journal import Journaled
from nas.generator import (
    Generator,
    GeneratorLabel,
    MixLimit,
    Request,
    answers,
    least_counts,
    load_generator,
    require_table,
    save_generator,
)
from nas.generator.counts import counts_of
from nas.generator.generator import device_of
from nas.generator.network import decode, without_empty_layers
from nas.priced import PricedSpace, space_label
from nas.recipes import Count, Fraction, Positive, Recipe
from nas.searchers.base import (
    Searcher,
    SearchResult,
    SearchSettings,
    architecture_file,
    budgets_of,
    generator_file,
    phase_of,
    recipe_of,
)
from nas.searchers.budgets import Budgets
from nas.spaces import PLAIN, Architecture, SearchSpace, make_space
from nas.spaces.architecture import read_architecture
from nas.spaces.sgnas import CHOICES, SUB_BLOCKS, architecture_of, random_network
from nas.supernet.unified import UnifiedSupernet, path_of
from nas.training.epochs import (
    Progress,
    Report,
    Resumable,
    TrainingImages,
    Values,
    resume,
    run_epochs,
)
from nas.training.run_folder import RunFolder, read_config
from nas.training.strategies.gumbel import gumbel_noise
from nas.training.unified import Parts, UnifiedRecipe, accuracy, divide, train_unified

_PHASE = "generator"
_PRIORS_FILE = "priors.jsonl"  # in a run's folder: networks that were judged to become one
_STREAM = 7  # keeps the generator's draws apart from the supernet's under the same seed
_JUDGED = 12  # images that can be judged in the time of training a generator on one
_IMITATED = 16  # requests that an imitation step answers
_DRAWS = 64  # random networks for each candidate of a prior: enough to come near every place


class SGNASRecipe(UnifiedRecipe, frozen=True, kw_only=True, tag="sgnas"):
    """How supernet and generator are trained; the defaults are the published values for ImageNet.

    Attributes:
        generator_epochs: Over the images held out from the supernet.
        generator_lr: Of Adam.
        tau_start: Temperature in the first epoch; then it falls geometrically.
        tau_end: In the last epoch; 5 x 0.95 ** 49 in the published code.
        low: Lower end of the budgets, a fraction of what the space reaches.
        high: Their upper end.
        budgets: Of each kind, spread over the range; published are 270 to 450 by 5.
        jitter: Largest distance from these, in steps; published is 0.5 of 5.
        hardware_weight: Of the squared distance from the budget.
        overshoot: Factor above the budget.
        tolerance: Distance that costs nothing.
        priors: Known networks, spread over the range.
        prior_candidates: Random networks that are judged for each.
        imitation_steps: Before the first epoch, without images: each says the priors of some
            budgets, in which the hardware loss has its part; published are none.
        selected_on: Answers that are judged after an epoch.
    """

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

    @property
    def supernet_share(self) -> float:
        """Part of the images shown that is shown to the supernet."""
        seen = self.epochs * (1 - self.held_out)
        return seen / (seen + self.generator_epochs * self.held_out * (1 - self.selection))

    def tau(self, epoch: int) -> float:
        """Temperature of an epoch."""
        progress = epoch / max(1, self.generator_epochs - 1)
        return self.tau_start * float((self.tau_end / self.tau_start) ** progress)

    def hardware_loss(self, excess: Tensor) -> Tensor:
        """Loss of an expected cost that is so far above its budget, or below."""
        factor = torch.where(excess > 0, self.overshoot, 1.0)
        inside = excess.abs() <= self.tolerance
        return torch.where(inside, 0.0, self.hardware_weight * factor * excess.square())

    def scaled(self, epochs: int | None, batch_size: int | None) -> Self:
        """The recipe in so many epochs of the supernet, with as many fewer of the generator."""
        made = super().scaled(epochs, batch_size)
        share = self.generator_epochs * made.epochs / self.epochs
        return msgspec.structs.replace(made, generator_epochs=max(1, round(share)))


class SGNASSearcher(Searcher):
    """Trains supernet and generator, and answers the targets on the first device.

    The generator is written into the run's folder and answers any other budget, on every device;
    a search may be asked for it alone.
    """

    recipe_kind: ClassVar[type[Recipe] | None] = SGNASRecipe
    several_devices: ClassVar[bool] = True
    limited: ClassVar[bool] = True
    generates: ClassVar[bool] = True

    def __init__(self, priced: PricedSpace, settings: SearchSettings) -> None:
        super().__init__(priced, settings)
        self.recipe = recipe_of(settings, SGNASRecipe)
        self.budgets = Budgets.of(
            (priced, *settings.others), low=self.recipe.low, high=self.recipe.high
        )

    def check_targets(self, targets_ms: Sequence[float]) -> None:
        super().check_targets(targets_ms)
        if self.settings.limits:
            for target_ms in targets_ms or [self.priced.reachable_ms()[1]]:
                latency = latency_limits([self.priced], target_ms)
                CodedSpace(Constraint((*latency.limits, *self.settings.limits)))
        for request in self.requests(targets_ms):
            least_counts(request)

    def requests(self, targets_ms: Sequence[float]) -> list[Request]:
        """What the generator is asked: each target with all limits, or the limits if any."""
        device = device_of(self.priced.table)
        counts = tuple(self._counted(limit) for limit in self.settings.limits)
        if not targets_ms:
            return [Request(counts)] if counts else []
        latency = self.budgets.latencies[device]
        return [Request((MixLimit(latency, ms), *counts), device) for ms in targets_ms]

    def _counted(self, limit: Limit) -> MixLimit:
        """A limit as generators count: of convolutions' MACs, and not above all that there is."""
        costs = next(c for c in self.budgets.counts if c.kind == limit.quantity.kind)
        budget, space = limit.budget, self.priced.space
        if costs.kind == "macs":  # linear layers are in the tail, the same of all architectures
            budget -= sum((block_cost(spec) for spec in space.tail), Cost()).linear_macs
        return MixLimit(costs, min(budget / 1e6, costs.reach[1]))

    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        recipe, seed, space = self.recipe, self.settings.seed, self.priced.space
        share = recipe.supernet_share
        judge = trained_judge(
            folder,
            space,
            data,
            recipe,
            seed=seed,
            progress=lambda fraction, words: progress(share * fraction, words),
        )
        trained = GeneratorTraining(judge, space, self.budgets, recipe, seed).run(
            folder,
            lambda fraction, words: progress(share + (1 - share) * fraction, words),
        )
        save_generator(trained, generator_file(folder.path))
        requests = self.requests(targets_ms)
        asked = budgets_of(targets_ms) if requests else []
        results = []
        with folder.metrics() as metrics:
            for target_ms, answer in zip(asked, answers(trained, space, requests), strict=True):
                file = architecture_file(folder.path, target_ms)
                write_atomically(file, answer.architecture.to_json())
                latency_ms = self.priced.latency_ms(answer.architecture)
                score = judge.score(answer.architecture)
                values = {"score": score, "derived_ms": latency_ms}
                metrics.log(phase_of(target_ms), recipe.epochs, values)
                results.append(SearchResult(target_ms, latency_ms, score, read_architecture(file)))
        return results


def read_run(run: Path) -> tuple[dict[str, Any], SGNASRecipe]:
    """The configuration of a run's folder and the recipe that it was trained by.

    Raises:
        InvalidFileError: The folder holds no run of this searcher.
    """
    config = read_config(run)
    if config.get("searcher") != "sgnas":
        raise InvalidFileError(f"{run} holds no run of `latbench search --searcher sgnas`")
    recipe = msgspec.convert(config["recipe"], SGNASRecipe)
    return config, recipe.scaled(config["epochs"], config["batch_size"])


def adapt(
    folder: RunFolder,
    priced: PricedSpace,
    data: ImageData,
    recipe: SGNASRecipe,
    *,
    seed: int,
    progress: Progress = lambda fraction, words: None,
) -> Generator:
    """The generator of a finished run, with one more device that learned its vector alone.

    Args:
        folder: Of the run; its supernet judges.
        priced: The new device's table.
        data: The run's.
        recipe: The run's, with as many epochs of the generator as the new device shall take.
        seed: The run's.
        progress: Is told the fraction done.

    Raises:
        LatbenchError: The run is not finished, knows the device, or is of another space.
    """
    known = load_generator(generator_file(folder.path))
    require_table(known, priced.table)
    space = priced.space
    device = device_of(priced.table)
    budgets = Budgets.of([priced], low=recipe.low, high=recipe.high).only(device)
    training = GeneratorTraining(
        trained_judge(folder, space, data, recipe, seed=seed),
        space,
        budgets,
        recipe,
        seed,
        generator=known.with_device(device),
    )
    return training.run(None, progress)


class Judge(Evaluator):
    """A trained supernet with the images to train and to judge generators on.

    A score is the accuracy of the calibrated network on the images that select.
    """

    def __init__(
        self, supernet: UnifiedSupernet, data: ImageData, parts: Parts, recipe: UnifiedRecipe
    ) -> None:
        super().__init__()
        self.supernet = supernet.requires_grad_(False)
        self.data, self.parts, self.recipe = data, parts, recipe

    def _score(self, architecture: Architecture) -> float:
        return accuracy(self.supernet, path_of(architecture), self.data, self.parts, self.recipe)


def trained_judge(
    folder: RunFolder,
    space: SearchSpace,
    data: ImageData,
    recipe: SGNASRecipe,
    *,
    seed: int,
    progress: Progress = lambda fraction, words: None,
) -> Judge:
    """The supernet of a run, trained to its end or read from its folder, as a judge."""
    parts = divide(data, recipe, seed=seed)
    supernet = train_unified(
        plain(space), data, parts, recipe, folder, seed=seed, progress=progress
    )
    return Judge(supernet, data, parts, recipe)


class GeneratorTraining(Resumable):
    """The training of one generator, and everything that it changes.

    Args:
        judge: The frozen supernet.
        space: Of the answers, in the variant that tables price.
        budgets: What is asked.
        recipe: How.
        seed: Of weights, priors, budgets, noise and the order of images.
        generator: To go on from, with a device that it has not learned yet, whose vector alone
            is trained; a new one where None.
    """

    def __init__(
        self,
        judge: Judge,
        space: SearchSpace,
        budgets: Budgets,
        recipe: SGNASRecipe,
        seed: int,
        *,
        generator: Generator | None = None,
    ) -> None:
        self.judge, self.space, self.budgets = judge, space, budgets
        self.recipe, self.seed = recipe, seed
        self.adapting = generator is not None
        self.generator = generator or self._new_generator()
        trained = [self.generator.devices] if self.adapting else self.generator.parameters()
        self.adam = torch.optim.Adam(trained, lr=recipe.generator_lr, betas=recipe.generator_betas)
        super().__init__(generator=self.generator, adam=self.adam)
        self.best_score = -math.inf
        self.best = self._copy()

    def run(self, folder: RunFolder | None, progress: Progress) -> Generator:
        """Train to the end; return the generator of the best epoch.

        Args:
            folder: Where metrics and checkpoints are kept; a run there goes on. None keeps none.
            progress: Is told the fraction done.
        """
        resumed = folder is not None and resume(self, folder, _PHASE)
        share = 0.0 if self.adapting else self._priors_share
        if not resumed and not self.adapting:
            self.generator.priors.copy_(
                self._find_priors(folder, lambda fraction, words: progress(share * fraction, words))
            )
            self._imitate(lambda words: progress(share, words))
        run_epochs(
            self,
            self.recipe.generator_epochs,
            self._one_epoch,
            folder,
            phase=_PHASE,
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
        """Learn to say the prior nearest to each budget, as far as the hardware loss lets it."""
        recipe, said = self.recipe, self.generator.prior_choices()
        drawn = generator(self.seed, _STREAM)
        requests = self.budgets.epoch(recipe.budgets, recipe.jitter, drawn)
        for number in range(recipe.imitation_steps):
            asked = [next(requests) for _ in range(_IMITATED)]
            logits = without_empty_layers(self.generator(asked))
            wanted = said[self.generator.nearest_priors(asked)]
            excess = [
                self.budgets.excess(request, each)
                for request, each in zip(asked, logits.softmax(-1), strict=True)
            ]
            hardware = recipe.hardware_loss(torch.stack(excess)).mean()
            loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten()) + hardware
            self.adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.adam.step()
            words = f"imitation, step {number + 1} of {recipe.imitation_steps}"
            tell(f"{words}, loss {float(loss.detach()):.2f}")

    def _one_epoch(self, report: Report) -> Values:
        recipe, judge = self.recipe, self.judge
        order, shifts, noise, asked = (
            generator(self.seed, _STREAM, self.epoch, use) for use in range(4)
        )
        requests = self.budgets.epoch(recipe.budgets, recipe.jitter, asked)
        tau = recipe.tau(self.epoch)
        errors: list[float] = []

        def step(number: int, x: Tensor, labels: Tensor) -> float:
            loss, excess = self._step(x, labels, next(requests), noise, tau)
            errors.append(abs(excess))
            return loss

        images = TrainingImages(judge.data, judge.parts.generator, recipe.batch_size, recipe.shift)
        loss = images.show(step, report, order=order, shifts=shifts)
        expected_error = sum(errors) / len(errors)
        return {"loss": loss, "expected_error": expected_error, "tau": tau, **self._select()}

    def _step(
        self, x: Tensor, labels: Tensor, request: Request, noise: torch.Generator, tau: float
    ) -> tuple[float, float]:
        """One update for one budget; return the images' loss and the excess of expected cost."""
        logits = without_empty_layers(self.generator([request])[0])
        drawn = logits.log_softmax(-1) + gumbel_noise(logits.shape, noise)
        probabilities = (drawn / tau).softmax(-1)
        loss = F.cross_entropy(self.judge.supernet(x, probabilities), labels)
        excess = self.budgets.excess(request, logits.softmax(-1))
        self.adam.zero_grad(set_to_none=True)
        (loss + self.recipe.hardware_loss(excess)).backward()  # type: ignore[no-untyped-call]
        if self.adapting:
            assert self.generator.devices.grad is not None
            self.generator.devices.grad[:-1] = 0  # devices that are known stay as they are
        self.adam.step()
        return float(loss.detach()), float(excess.detach())

    def _select(self) -> Values:
        """Judge the epoch: keep its generator if its answers are the best so far.

        Returns:
            ``score``, mean accuracy of answers under their budgets; ``kendall_tau`` between
            budgets and what the network alone says to them, its mean over kinds of cost;
            ``raw_error``, how far that is from the budget, a fraction.
        """
        rows = self.budgets.grid(self.recipe.budgets)
        taus, errors = [], []
        for row in rows:
            costs = row[0].limits[0].costs
            asked = [request.limits[0].budget for request in row]
            said = [costs.of(counts_of(choices)) for choices in self._decoded(row)]
            taus.append(float(kendalltau(asked, said).statistic))
            errors += [abs(s / a - 1) for s, a in zip(said, asked, strict=True)]
        judged = self.budgets.grid(self.recipe.selected_on)
        picked = [judged[i % len(self.budgets.latencies)][i] for i in range(len(judged[0]))]
        made = answers(self.generator, self.space, picked)
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
        return decode(self.generator(requests)).numpy()

    def _new_generator(self) -> Generator:
        recipe, layers = self.recipe, len(self.space.layers)
        places = np.linspace(recipe.low, recipe.high, recipe.priors + 2)[1:-1].tolist()
        label = GeneratorLabel(
            format=1,
            form="conditioned",
            space=space_label(self.space),
            low=recipe.low,
            high=recipe.high,
            kinds=("latency", *(costs.kind for costs in self.budgets.counts)),
            devices=tuple(self.budgets.latencies),
            priors=tuple(places),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Generator(label, torch.zeros(len(places), layers, SUB_BLOCKS * CHOICES))

    def _find_priors(self, folder: RunFolder | None, progress: Progress) -> Tensor:
        """The most accurate of some random networks near each place, one-hot ``(K, L, B * 4)``."""
        judge: Evaluator = self.judge
        if folder is not None:
            judge = Journaled(judge, folder.path / _PRIORS_FILE)
        candidates, places = self.recipe.prior_candidates, self.generator.label.priors
        rng = np.random.default_rng([self.seed, _STREAM])
        paths = [path_of(random_network(self.space, rng)) for _ in range(_DRAWS * candidates)]
        at = np.array([self.budgets.place(counts_of(np.array(path))) for path in paths])
        priors: list[Tensor] = []
        for place in places:
            scores: dict[int, float] = {}
            for i in np.argsort(np.abs(at - place), kind="stable")[:candidates].tolist():
                scores[i] = judge.score(architecture_of(self.space, paths[i]))
                done, count = len(priors) * candidates + len(scores), len(places) * candidates
                progress(done / count, f"priors, network {done} of {count}")
            best = max(scores, key=lambda i: scores[i])
            priors.append(F.one_hot(torch.tensor(paths[best]), CHOICES).flatten(1))
        return torch.stack(priors).float()

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.generator.state_dict().items()}

    def save(self) -> dict[str, Any]:
        return {**super().save(), "best": self.best, "best_score": self.best_score}

    def load(self, saved: dict[str, Any]) -> None:
        super().load(saved)
        self.best, self.best_score = saved["best"], saved["best_score"]


def plain(space: SearchSpace) -> SearchSpace:
    """The space without squeeze-excite and with ReLU6: what a unified supernet is of."""
    if space.variant == PLAIN:
        return space
    return make_space(space.name, space.input_size, space.classes)
