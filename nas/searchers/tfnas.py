"""TF-NAS: rethinking three search freedoms of latency-constrained differentiable NAS
(Hu, Wu & He, ECCV 2020).

Operation: bi-sampling. A weight step trains the path that Gumbel-argmax draws and a second path
drawn uniformly from the other operations, so that no operation starves. Depth: sink-connecting.
Width: after each epoch elasticity scaling brings the derived architecture to the target.

Glossary:

    alpha     log probabilities of the operations of a layer, ``(operations,)``
    beta      logits of the depths of a stage, ``(depths,)``
    tau       temperature of Gumbel softmax

Choices where the paper is silent or differs from its code:

* The latency loss is ``|LAT / target - 1|`` times 0.1, as in the code; the paper's
  ``max(LAT / target - 1, 0)`` lets the search end far below its budget.
* Warm-up (a ninth of the epochs) does not depend on the target and is done once for all of them.
* Operations that a step does not sample get no weight decay and no momentum either.
* The architecture at the end is the most probable one that can be scaled to just below the
  target (``nas.searchers.derivation``), not the argmax whatever its latency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from latbench.files import write_atomically
from nas.data.images import ImageData, Split, augment, batches, generator
from nas.priced import PricedSpace
from nas.relaxation import Relaxed, expected_latency_ms, one_hot
from nas.scaling import fit_greedy
from nas.searchers.base import Progress, Searcher, SearchResult, SearchSettings
from nas.searchers.derivation import derive, most_probable
from nas.spaces.architecture import read_architecture
from nas.supernet.supernet import Supernet, start_widths
from nas.training.memory import keep_freed_memory
from nas.training.optimizer import ElasticSGD
from nas.training.run_folder import Metrics, RunFolder


@dataclass(frozen=True)
class Recipe:
    """The published schedule (90 epochs of 100 ImageNet classes) and its constants."""

    epochs: int = 90
    batch_size: int = 32
    warmup: float = 1 / 9  # of the epochs: one path, no architecture step, no scaling
    held_out: float = 0.2  # of the training images: architecture steps and scores
    lr: float = 0.025  # cosine to zero
    momentum: float = 0.9
    weight_decay: float = 1e-5
    clip: float = 5.0  # norm of the weights' gradient
    alpha_lr: float = 0.01  # Adam
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 5e-4
    alpha_every: int = 2  # weight steps an architecture step
    latency_weight: float = 0.1
    tau_start: float = 5.0
    tau_end: float = 0.2  # 5.0 x 0.96 ** 80 in the published code
    shift: int = 4  # largest shift of a training image, in pixels

    def warmup_epochs(self, epochs: int) -> int:
        return max(1, round(epochs * self.warmup)) if epochs > 1 else 0

    def tau(self, epoch: int, epochs: int) -> float:
        """Temperature: constant in warm-up, then geometric, ``tau_end`` in the last epoch."""
        first = self.warmup_epochs(epochs)
        if epoch <= first:
            return self.tau_start
        progress = (epoch - first) / max(1, epochs - 1 - first)
        return self.tau_start * float((self.tau_end / self.tau_start) ** progress)


_WARMUP = "warmup"
_FEWEST_IMAGES = 8  # batch norm needs a batch


class _State:
    """Everything that a search changes, and so everything that a checkpoint holds."""

    def __init__(self, priced: PricedSpace, recipe: Recipe, seed: int) -> None:
        space = priced.space
        self.supernet = Supernet(space, start_widths=start_widths(space), seed=seed)
        self.supernet.to(memory_format=torch.channels_last)
        self.alphas = [[_uniform(len(layer.ops)) for layer in ls] for ls in space.stages]
        self.betas = [_uniform(len(layers)) for layers in space.stages]
        self.sgd = ElasticSGD(
            self.supernet.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.adam = torch.optim.Adam(
            self.choice_parameters(),
            lr=recipe.alpha_lr,
            betas=recipe.alpha_betas,
            weight_decay=recipe.alpha_weight_decay,
        )
        self.epoch = 0
        self.select()

    def choice_parameters(self) -> list[nn.Parameter]:
        return [alpha for row in self.alphas for alpha in row] + self.betas

    def select(self) -> None:
        """Tell the optimiser which channels are in use."""
        self.sgd.select(self.supernet.selections())

    def save(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "supernet": self.supernet.state_dict(),
            "choices": [parameter.detach() for parameter in self.choice_parameters()],
            "sgd": self.sgd.state_dict(),
            "adam": self.adam.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.supernet.load_state_dict(state["supernet"])
        with torch.no_grad():
            for parameter, value in zip(self.choice_parameters(), state["choices"], strict=True):
                parameter.copy_(value)
        self.sgd.load_state_dict(state["sgd"])
        self.adam.load_state_dict(state["adam"])
        self.select()


class TFNASSearcher(Searcher):
    """The search of TF-NAS, for one target after another."""

    def __init__(
        self, priced: PricedSpace, settings: SearchSettings, recipe: Recipe | None = None
    ) -> None:
        super().__init__(priced, settings)
        self.recipe = recipe or Recipe()
        self.epochs = settings.epochs or self.recipe.epochs
        self.batch_size = settings.batch_size or self.recipe.batch_size
        self.warmup = self.recipe.warmup_epochs(self.epochs)

    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        torch.set_flush_denormal(True)
        keep_freed_memory()
        train, held_out = data.held_out(self.recipe.held_out, seed=self.settings.seed)
        if min(len(train), len(held_out)) < _FEWEST_IMAGES:
            raise InvalidValueError(
                f"{len(data.train)} training images are too few to search on: a fifth is held "
                f"out, and either part needs {_FEWEST_IMAGES}"
            )
        work = _Work(data, train, held_out, folder, progress)
        total = self.warmup + len(targets_ms) * (self.epochs - self.warmup)
        with folder.metrics() as metrics:
            self._warm_up(work, metrics, total)
            return [
                self._search_one(work, metrics, target_ms, index, total)
                for index, target_ms in enumerate(targets_ms)
            ]

    def _warm_up(self, work: _Work, metrics: Metrics, total: int) -> None:
        state = self._resume(work.folder, _WARMUP)
        while state.epoch < self.warmup:
            self._epoch(state, work, metrics, phase=_WARMUP, stream=0, total=total)
            state.epoch += 1
            work.folder.save_checkpoint(_WARMUP, state.save())

    def _search_one(
        self, work: _Work, metrics: Metrics, target_ms: float, index: int, total: int
    ) -> SearchResult:
        phase = f"{target_ms:.6g}ms"
        offset = index * (self.epochs - self.warmup)
        state = self._resume(work.folder, phase, otherwise=_WARMUP)
        while state.epoch < self.epochs:
            self._epoch(
                state,
                work,
                metrics,
                phase=phase,
                stream=index + 1,
                total=total,
                target_ms=target_ms,
                offset=offset,
            )
            state.epoch += 1
            work.folder.save_checkpoint(phase, state.save())
        fitted = derive(
            self.priced,
            log_ops=[[alpha.tolist() for alpha in row] for row in state.alphas],
            log_depths=[beta.tolist() for beta in state.betas],
            widths=state.supernet.widths(),
            target_ms=target_ms,
        )
        file = work.folder.path / "architectures" / f"{phase}.json"
        write_atomically(file, fitted.architecture.to_json())
        state.supernet.set_widths(fitted.architecture)
        score = self._accuracy(state, work, one_hot(self.priced.space, fitted.architecture))
        return SearchResult(target_ms, fitted.latency_ms, score, read_architecture(file))

    def _resume(self, folder: RunFolder, name: str, *, otherwise: str | None = None) -> _State:
        state = _State(self.priced, self.recipe, self.settings.seed)
        saved = folder.checkpoint(name)
        if saved is None and otherwise is not None:
            saved = folder.checkpoint(otherwise)
        if saved is not None:
            state.load(saved)
        return state

    def _epoch(
        self,
        state: _State,
        work: _Work,
        metrics: Metrics,
        *,
        phase: str,
        stream: int,
        total: int,
        target_ms: float | None = None,
        offset: int = 0,
    ) -> None:
        """One epoch of weight steps and, given a target, of architecture steps and scaling."""
        recipe, seed, epoch = self.recipe, self.settings.seed, state.epoch
        begin = monotonic()
        order, noise, shifts = (generator(seed, stream, epoch, use) for use in range(3))
        tau = recipe.tau(epoch, self.epochs)
        for group in state.sgd.param_groups:
            group["lr"] = recipe.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        held_out = _endless(work.held_out, self.batch_size, generator(seed, stream, epoch, 3))
        steps = max(1, len(work.train) // self.batch_size)
        losses: list[float] = []
        expected_ms = math.nan
        for step, (images, labels) in enumerate(batches(work.train, self.batch_size, order)):
            shifted = augment(images, shifts, flip=work.data.flip, shift=recipe.shift)
            x = work.data.to_input(shifted)
            losses.append(
                self._weight_step(state, x, labels, noise, tau, both=target_ms is not None)
            )
            if target_ms is not None and step % recipe.alpha_every == recipe.alpha_every - 1:
                judged, truth = next(held_out)
                x = work.data.to_input(judged)
                expected_ms = self._architecture_step(state, x, truth, noise, tau, target_ms)
            work.progress(
                (offset + epoch + (step + 1) / steps) / total,
                f"{phase}, epoch {epoch + 1} of {self.epochs}, loss {losses[-1]:.2f}",
            )
        derived_ms = None
        if target_ms is not None:
            derived_ms = self._scale(state, target_ms)
        metrics.log(
            phase,
            epoch,
            {
                "loss": sum(losses) / len(losses),
                "tau": tau,
                "lr": state.sgd.param_groups[0]["lr"],
                "expected_ms": None if math.isnan(expected_ms) else expected_ms,
                "derived_ms": derived_ms,
                "seconds": round(monotonic() - begin, 3),
            },
        )

    def _weight_step(
        self,
        state: _State,
        x: Tensor,
        labels: Tensor,
        noise: torch.Generator,
        tau: float,
        *,
        both: bool,
    ) -> float:
        """Train the Gumbel path and, with ``both``, a second one; return the first's loss."""
        state.sgd.zero_grad(set_to_none=True)
        first = [
            [int(_gumbel(alpha, noise, tau).argmax()) for alpha in row] for row in state.alphas
        ]
        paths = [first]
        if both:
            paths.append(
                [
                    [_other(len(alpha), op, noise) for alpha, op in zip(row, ops, strict=True)]
                    for row, ops in zip(state.alphas, first, strict=True)
                ]
            )
        depths = tuple(_by_depth(beta.detach().softmax(0).tolist()) for beta in state.betas)
        losses = []
        for path in paths:
            relaxed = Relaxed(tuple(tuple({op: 1.0} for op in ops) for ops in path), depths)
            loss = F.cross_entropy(state.supernet(x, relaxed), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        nn.utils.clip_grad_norm_(state.supernet.parameters(), self.recipe.clip)
        state.sgd.step()
        return float(losses[0])

    def _architecture_step(
        self,
        state: _State,
        x: Tensor,
        labels: Tensor,
        noise: torch.Generator,
        tau: float,
        target_ms: float,
    ) -> float:
        """Move alpha and beta; return the expected latency before the step in ms."""
        ops = tuple(
            tuple(dict(enumerate(_gumbel(alpha, noise, tau).softmax(0))) for alpha in row)
            for row in state.alphas
        )
        depths = tuple(_by_depth(beta.softmax(0)) for beta in state.betas)
        relaxed = Relaxed(ops, depths)
        latency_ms = expected_latency_ms(self.priced, relaxed, state.supernet.widths())
        state.adam.zero_grad(set_to_none=True)
        state.supernet.requires_grad_(False)  # no backward for frozen weights
        loss = F.cross_entropy(state.supernet(x, relaxed), labels)
        loss = loss + self.recipe.latency_weight * abs(latency_ms / target_ms - 1)
        loss.backward()
        state.supernet.requires_grad_(True)
        state.adam.step()
        with torch.no_grad():
            for parameter in state.choice_parameters():
                parameter.copy_(parameter.log_softmax(0))
        return float(latency_ms.detach())

    def _scale(self, state: _State, target_ms: float) -> float:
        """Elasticity scaling of the derived architecture; return its latency in ms."""
        derived = most_probable(
            self.priced,
            [[alpha.tolist() for alpha in row] for row in state.alphas],
            [beta.tolist() for beta in state.betas],
            state.supernet.widths(),
        )
        fitted = fit_greedy(self.priced, derived, target_ms, clamp=True)
        state.supernet.set_widths(fitted.architecture)
        state.select()
        return fitted.latency_ms

    @torch.no_grad()
    def _accuracy(self, state: _State, work: _Work, relaxed: Relaxed) -> float:
        """Accuracy on the held-out images; norms use each batch's statistics."""
        right = 0
        for images, labels in batches(work.held_out, 256, generator(0), drop_last=False):
            logits = state.supernet(work.data.to_input(images), relaxed)
            right += int((logits.argmax(1) == labels).sum())
        return right / len(work.held_out)


@dataclass(frozen=True)
class _Work:
    data: ImageData
    train: Split
    held_out: Split
    folder: RunFolder
    progress: Progress


def _uniform(count: int) -> nn.Parameter:
    return nn.Parameter(torch.full((count,), -math.log(count)))


def _gumbel(alpha: Tensor, noise: torch.Generator, tau: float) -> Tensor:
    """Logits of Gumbel softmax: (log p + g) / tau."""
    uniform = torch.rand(alpha.shape, generator=noise).clamp_(1e-9, 1 - 1e-7)
    return (alpha.log_softmax(0) - (-uniform.log()).log()) / tau


def _other(count: int, taken: int, noise: torch.Generator) -> int:
    """An index drawn uniformly from all but one."""
    drawn = int(torch.randint(count - 1, (1,), generator=noise))
    return drawn + (drawn >= taken)


def _by_depth(weights: Any) -> dict[int, Any]:
    return dict(enumerate(weights, start=1))


def _endless(
    split: Split, batch_size: int, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches(split, batch_size, rng)
