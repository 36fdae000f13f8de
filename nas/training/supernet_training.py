"""Training of the supernet of a space by a strategy; for both kinds of supernets.

Weight steps run SGD on the architectures that the strategy draws. Strategies that relax choices
also get architecture steps: Adam on held-out images, with the weights frozen (first order). A step
does not change parameters that it does not compute: no decay and no momentum. The same holds for
channels of elastic operations beyond the widest width of a step.

A run resumes from its last finished epoch, bit-exactly. Under ``torchrun`` every process draws the
same batches and paths, computes on its part of each batch and averages gradients.

A network is evaluated as ``calibrate(supernet.cut(architecture), ...)``
(``nas.training.calibration``; SPOS, Guo et al. 2020, Section 3.2), because the supernet's running
statistics mix many paths and fit none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latbench.progress import Progress, silent
from nas.data.images import ImageData, Source, generator
from nas.recipes import Count, NotNegative, Positive
from nas.supernet.mixed_operations import Supernet, has_widths
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.training.distributed import ALONE, Workers
from nas.training.epochs import (
    Report,
    Resumable,
    TrainingImages,
    Values,
    mean_loss,
    resume,
    run_epochs,
    scaler_part,
)
from nas.training.optimizer import ElasticSGD, cosine, set_lr
from nas.training.recipe import SearchRecipe
from nas.training.run_folder import RunFolder
from nas.training.strategies import Relaxation, Strategy
from nas.training.strategies.base import Drawn, on_device
from nas.training.torch_device import CPU, TorchDevice


@dataclass(frozen=True)
class Objective:
    """The objective that an architecture step minimises.

    Attributes:
        cost: Function from a relaxed architecture to its expected cost, a scalar on the
            relaxation's device.
        total: Function from the loss on held-out images and the cost, both on the device, to the
            objective.
    """

    cost: Callable[[Drawn], Tensor]
    total: Callable[[Tensor, Tensor], Tensor]


class SupernetRecipe(SearchRecipe, frozen=True, kw_only=True, tag="supernet"):
    """Settings of a supernet's training; the defaults are OSNASLib's for CIFAR-100.

    Attributes:
        clip: Largest norm of the gradient; 0 for none.
        alpha_lr: Learning rate of Adam on a differentiable strategy's parameters.
        alpha_every: Number of weight steps per architecture step.
    """

    epochs: Count = 100
    lr: Positive = 0.045
    weight_decay: NotNegative = 4e-5
    clip: NotNegative = 0.0
    alpha_lr: Positive = 1e-3
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: NotNegative = 0.0
    alpha_every: Count = 1


def train_supernet(
    supernet: Supernet | UnifiedSupernet,
    strategy: Strategy,
    data: ImageData,
    recipe: SupernetRecipe,
    folder: RunFolder,
    *,
    relaxation: Relaxation | None = None,
    phase: str = "supernet",
    seed: int = 0,
    criterion: nn.Module | None = None,
    objective: Objective | None = None,
    parts: tuple[Source, Source] | None = None,
    workers: Workers = ALONE,
    torch_device: TorchDevice = CPU,
    progress: Progress = silent,
) -> None:
    """Train to the end of the recipe; the same call resumes an interrupted training.

    Args:
        supernet: Supernet to train; changed in place, and moved to the device.
        strategy: Strategy of the weight steps; changed in place if it has parameters.
        data: Data set. The recipe's fraction of the training images is held out
            (``data.held_out(recipe.held_out, seed=seed)``) and used only by architecture steps.
        recipe: Constants of the training.
        folder: Folder for checkpoints and metrics.
        relaxation: Relaxation that architecture steps train, changed in place. If None, the
            strategy itself, if it relaxes choices.
        phase: Name of the training in checkpoints and metrics.
        seed: Seed of order, shifts and paths.
        criterion: Loss of logits and labels, a scalar; its parameters are trained with the weights.
            Cross entropy if None.
        objective: Objective of architecture steps; the loss alone if None.
        parts: Images for the weights and images for architecture steps. If None, the recipe divides
            the training images.
        workers: The processes that train together.
        torch_device: Device and precision of the steps.
        progress: Callback with the fraction done and a short description.
    """
    state = _State(
        supernet,
        strategy,
        criterion or nn.CrossEntropyLoss(),
        recipe,
        relaxation=relaxation,
        torch_device=torch_device,
    )
    resume(state, folder, phase)
    train, held_out = parts or data.held_out(recipe.held_out, seed=seed)
    images = TrainingImages(
        data,
        train,
        recipe.batch_size,
        recipe.shift,
        workers,
        per_class=recipe.per_class,
        torch_device=torch_device,
    )

    def train_epoch(report: Report) -> Values:
        epoch = state.epoch
        lr = cosine(recipe.lr, epoch / recipe.epochs)
        set_lr(state.sgd, lr)
        order, shifts, paths, others = (generator(seed, epoch, use) for use in range(4))
        selection = images.unaugmented(held_out, others)

        def step(number: int, x: Tensor, labels: Tensor) -> Tensor:
            done = (epoch + number / images.steps) / recipe.epochs
            loss = state.weight_step(x, labels, paths, done, workers)
            if state.adam is not None and number % recipe.alpha_every == 0:
                state.architecture_step(*next(selection), paths, done, objective, workers)
            return loss

        loss = images.show(step, report, order=order, shifts=shifts)
        workers.average_buffers(supernet)
        return {"loss": loss, "lr": lr}

    run_epochs(
        state,
        recipe.epochs,
        train_epoch,
        folder,
        phase=phase,
        workers=workers,
        torch_device=torch_device,
        batch_size=recipe.batch_size,
        progress=progress,
    )


def _sgd(
    supernet: Supernet | UnifiedSupernet, parameters: Sequence[nn.Parameter], recipe: SupernetRecipe
) -> torch.optim.Optimizer:
    """SGD that does not change parameters or channels that a step does not compute."""
    if isinstance(supernet, Supernet) and has_widths(supernet.space):
        return ElasticSGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
    sgd = torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    if recipe.momentum:  # the fused step needs all velocities from the start
        for parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


class _State(Resumable):
    """Supernet, strategy, criterion and their optimisers.

    Supernet and criterion are moved to the device; the strategy stays on the CPU.
    """

    def __init__(
        self,
        supernet: Supernet | UnifiedSupernet,
        strategy: Strategy,
        criterion: nn.Module,
        recipe: SupernetRecipe,
        *,
        relaxation: Relaxation | None = None,
        torch_device: TorchDevice = CPU,
    ) -> None:
        torch_device.place(supernet)
        torch_device.place(criterion)
        self.torch_device, self.scaler = torch_device, torch_device.scaler()
        if relaxation is None and isinstance(strategy, Relaxation):
            relaxation = strategy
        self.supernet, self.strategy, self.criterion = supernet, strategy, criterion
        self.relaxation = relaxation
        self.clip = recipe.clip
        self.parameters = [*supernet.parameters(), *criterion.parameters()]
        self.sgd = _sgd(supernet, self.parameters, recipe)
        self.adam = (
            torch.optim.Adam(
                relaxation.parameters(),
                lr=recipe.alpha_lr,
                betas=recipe.alpha_betas,
                weight_decay=recipe.alpha_weight_decay,
            )
            if relaxation is not None
            else None
        )
        super().__init__(
            supernet=supernet,
            strategy=strategy,
            relaxation=None if relaxation is strategy else relaxation,
            criterion=criterion,
            sgd=self.sgd,
            adam=self.adam,
            **scaler_part(self.scaler),
        )

    def weight_step(
        self, x: Tensor, labels: Tensor, rng: torch.Generator, progress: float, workers: Workers
    ) -> Tensor:
        """One update on the summed gradients of all drawn architectures; returns the mean loss."""
        return self.train_drawn(x, labels, self.strategy.draw(rng, progress), workers)

    def train_drawn(
        self, x: Tensor, labels: Tensor, drawn: Sequence[Drawn], workers: Workers
    ) -> Tensor:
        """One update on the summed gradients of given architectures; returns the mean loss."""
        self.supernet.train()
        self.sgd.zero_grad(set_to_none=True)
        losses = []
        for each in drawn:
            relaxed, _ = on_device(each, x.device)
            losses.append(self._loss(x, labels, relaxed))
            self.scaler.scale(losses[-1]).backward()  # type: ignore[no-untyped-call]
            losses[-1] = losses[-1].detach()
        if isinstance(self.sgd, ElasticSGD):
            assert isinstance(self.supernet, Supernet)
            self.sgd.select(self.supernet.selections(drawn))
        workers.average_gradients(self.parameters)
        if self.clip:
            self.scaler.unscale_(self.sgd)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.sgd)
        self.scaler.update()
        return mean_loss(losses)

    def _loss(self, x: Tensor, labels: Tensor, relaxed: Drawn) -> Tensor:
        with self.torch_device.autocast():
            loss: Tensor = self.criterion(self.supernet(x, relaxed), labels)
        return loss

    def architecture_step(
        self,
        x: Tensor,
        labels: Tensor,
        rng: torch.Generator,
        progress: float,
        objective: Objective | None,
        workers: Workers,
    ) -> None:
        """Update the relaxation's parameters; the weights are frozen.

        A unified supernet computes mixtures in its evaluation mode, as in SGNAS's own architecture
        steps: with frozen weights it then keeps only one map per kernel.
        """
        assert self.relaxation is not None
        relaxed = self.relaxation.relaxed(rng, progress)
        # the cost is copied to a GPU with the weights; on the CPU it is computed after the loss,
        # which fixes the order in which gradients are summed
        costs = (
            [objective.cost(relaxed)] if objective is not None and x.device.type != "cpu" else []
        )
        there, sent = on_device(relaxed, x.device, *costs)

        def total(loss: Tensor) -> Tensor:
            if objective is None:
                return loss
            return objective.total(loss, sent[0] if sent else objective.cost(relaxed))

        self.move_relaxation(x, labels, there, total, workers)

    def move_relaxation(
        self,
        x: Tensor,
        labels: Tensor,
        relaxed: Drawn,
        total: Callable[[Tensor], Tensor],
        workers: Workers,
    ) -> None:
        """Update a relaxation to lower the total objective of its loss."""
        assert self.adam is not None and self.relaxation is not None
        self.supernet.train(not isinstance(self.supernet, UnifiedSupernet))
        self.adam.zero_grad(set_to_none=True)
        for parameter in self.parameters:
            parameter.requires_grad_(False)  # frozen weights need no backward pass
        loss = self._loss(x, labels, relaxed)
        self.scaler.scale(total(loss)).backward()  # type: ignore[no-untyped-call]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        workers.average_gradients(self.relaxation.parameters())
        self.scaler.step(self.adam)
        self.scaler.update()
