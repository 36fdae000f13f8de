"""Bilevel training: shared weights learn on training images, choices on held-out images.

All trainings of supernets are this one. A **weight step** makes one update on the summed gradients
of the architectures that a strategy draws (``nas.training.strategies``). An **architecture step**
updates the choices of a relaxation, with the weights frozen (first order: Liu et al., DARTS, ICLR
2019). A training without a relaxation has weight steps only.

Algorithms differ in their strategies, in their settings (``nas.training.bilevel_settings``), and in
two methods that a state may override: how gradients are computed, and which channels an optimiser
updates.

Under ``torchrun`` every process draws the same batches and architectures, computes on its part of
each batch and averages gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latbench.progress import Progress, silent
from nas.supernet.mixed_operations import Supernet
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.training.bilevel_settings import PLAIN_UPDATES, Objective, Plan, UpdateRules
from nas.training.choice_probabilities import log_probabilities
from nas.training.criterion import loss_of
from nas.training.distributed import ALONE, Workers
from nas.training.epochs import Resumable, Stateful, Values, run_epochs, scaler_part
from nas.training.optimizer import ElasticSGD, cosine, set_lr
from nas.training.run_folder import RunFolder
from nas.training.steps import Report, mean_loss
from nas.training.strategies import Relaxation, Strategy
from nas.training.strategies.base import Drawn, on_device
from nas.training.torch_device import CPU, TorchDevice


@dataclass(frozen=True)
class EpochResult:
    """Mean loss and last learning rate of an epoch, and the cost at its last architecture step."""

    loss: float
    lr: float
    cost: Tensor | None


def loss_and_lr(result: EpochResult) -> Values:
    """The metrics that every training logs."""
    return {"loss": result.loss, "lr": result.lr}


class Bilevel(Resumable):
    """State of a bilevel training: supernet, criterion, strategy and their optimisers.

    Args:
        supernet: Supernet, on the device.
        strategy: Strategy of the weight steps, on the CPU.
        criterion: Loss of outputs and labels, on the device.
        sgd: Optimiser of the parameters of supernet and criterion.
        parts: What checkpoints hold, by name, besides the loss scaler.
        relaxation: Relaxation that architecture steps train, on the CPU; None if there are none.
        adam: Optimiser of the relaxation's parameters.
        rules: Settings of both kinds of updates.
        torch_device: Device and precision of the steps.
        workers: The processes that train together.

    Attributes:
        parameters: Parameters of supernet and criterion.
    """

    def __init__(
        self,
        supernet: Supernet | UnifiedSupernet,
        strategy: Strategy,
        criterion: nn.Module,
        *,
        sgd: torch.optim.Optimizer,
        parts: Mapping[str, Stateful | None],
        relaxation: Relaxation | None = None,
        adam: torch.optim.Optimizer | None = None,
        rules: UpdateRules = PLAIN_UPDATES,
        torch_device: TorchDevice = CPU,
        workers: Workers = ALONE,
    ) -> None:
        self.supernet, self.strategy, self.criterion = supernet, strategy, criterion
        self.relaxation, self.sgd, self.adam, self.rules = relaxation, sgd, adam, rules
        self.torch_device, self.workers = torch_device, workers
        self.parameters = [*supernet.parameters(), *criterion.parameters()]
        self.scaler = torch_device.scaler()
        super().__init__(**parts, **scaler_part(self.scaler))

    def run(
        self,
        plan: Plan,
        folder: RunFolder,
        *,
        phase: str,
        last: int | None = None,
        end_epoch: Callable[[EpochResult], Values] = loss_and_lr,
        progress: Progress = silent,
    ) -> None:
        """Train to the end of a plan.

        Args:
            plan: Plan of the epochs.
            folder: Folder for checkpoints and metrics.
            phase: Name of the training in checkpoints, metrics and progress.
            last: Number of epochs to finish; all of the plan's if None.
            end_epoch: Function that is called after every epoch and returns its metrics; it may
                change the state.
            progress: Callback with the fraction done and a short description.
        """

        def train_epoch(report: Report) -> Values:
            values = end_epoch(self.train_epoch(plan, report))
            if plan.held_out is not None:
                self._log_choices(folder, phase)
            return values

        run_epochs(
            self,
            plan.epochs if last is None else last,
            train_epoch,
            folder,
            phase=phase,
            workers=self.workers,
            torch_device=self.torch_device,
            batch_size=plan.images.batch_size,
            progress=progress,
        )

    def _log_choices(self, folder: RunFolder, phase: str) -> None:
        """Log the probabilities of the relaxation's choices after the present epoch."""
        found = self.relaxation.by_stage() if self.relaxation is not None else None
        if found is not None and self.relaxation is not None and self.workers.leads:
            ops, depths = found
            space = self.relaxation.space
            log_probabilities(folder.path, space, phase, self.epoch, ops=ops, depths=depths)

    def train_epoch(self, plan: Plan, report: Report) -> EpochResult:
        """Do the steps of one epoch; report the loss of each."""
        streams, held_out, cost = plan.streams(self.epoch), None, None
        rng = streams.architectures
        if self.relaxation is not None and plan.held_out is not None:
            held_out = plan.images.unaugmented(plan.held_out, streams.held_out)
        self.begin_epoch()
        lr = cosine(plan.lr, self.epoch / plan.epochs)
        set_lr(self.sgd, lr)

        def step(number: int, x: Tensor, labels: Tensor) -> Tensor:
            nonlocal lr, cost
            done = (self.epoch + number / plan.images.steps) / plan.epochs
            if plan.lr_changes == "step":
                lr = cosine(plan.lr, done)
                set_lr(self.sgd, lr)
            loss = self.weight_step(x, labels, rng=rng, progress=done)
            if held_out is not None and number % plan.alpha_every == 0:
                cost = self.architecture_step(
                    *next(held_out), plan.objective, rng=rng, progress=done
                )
            return loss

        loss = plan.images.show(step, report, order=streams.order, shifts=streams.shifts)
        self.workers.average_buffers(self.supernet)
        return EpochResult(loss, lr, cost)

    def begin_epoch(self) -> None:
        """Prepare supernet, strategy and optimisers for an epoch."""
        self.supernet.train()
        self.strategy.begin_epoch(self.epoch)
        if self.rules.restart:
            for optimizer in (self.sgd, self.adam):
                if optimizer is not None:
                    optimizer.state.clear()

    def weight_step(
        self, x: Tensor, labels: Tensor, *, rng: torch.Generator, progress: float = 0.0
    ) -> Tensor:
        """One update of the weights on the architectures that the strategy draws.

        Args:
            x: Normalised images ``(B, 3, S, S)``, this process's share.
            labels: Labels ``(B,)``.
            rng: Generator of all random draws.
            progress: Fraction of the training that is done.

        Returns:
            The reported loss, a scalar without gradient, on the device.
        """
        return self.train_weights(x, labels, self.strategy.draw(rng, progress))

    def train_weights(self, x: Tensor, labels: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """One update on the summed gradients of given architectures; returns the reported loss."""
        if not self.supernet.training:  # an architecture step may have changed its mode
            self.supernet.train()
        self.sgd.zero_grad(set_to_none=True)
        losses = self.add_gradients(x, labels, drawn)
        self.select(drawn)
        self._update(self.sgd, self.parameters, self.rules.clip)
        return losses[0] if self.rules.reported == "first" else mean_loss(losses)

    def add_gradients(self, x: Tensor, labels: Tensor, drawn: Sequence[Drawn]) -> list[Tensor]:
        """Add up the gradients of all architectures; return their losses, without gradient."""
        losses = []
        for each in drawn:
            loss = self._loss(x, labels, on_device(each, x.device)[0])
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return losses

    def select(self, drawn: Sequence[Drawn]) -> None:
        """Update only the channels that these architectures compute, if widths are elastic."""
        if isinstance(self.sgd, ElasticSGD):
            assert isinstance(self.supernet, Supernet)
            self.sgd.select(self.supernet.selections(drawn))

    def architecture_step(
        self,
        x: Tensor,
        labels: Tensor,
        objective: Objective | None = None,
        *,
        rng: torch.Generator,
        progress: float = 0.0,
    ) -> Tensor | None:
        """One update of the choices; the weights are frozen.

        Args:
            x: Normalised held-out images ``(B, 3, S, S)``, this process's share.
            labels: Labels ``(B,)``.
            objective: The objective; the loss alone if None.
            rng: Generator of all random draws.
            progress: Fraction of the training that is done.

        Returns:
            The expected cost before the update, on the CPU; None without an objective.
        """
        assert self.relaxation is not None
        relaxed = self.relaxation.relaxed(rng, progress)
        if objective is None:
            there, _ = on_device(relaxed, x.device)
            self.train_choices(x, labels, there, lambda loss: loss)
            return None
        costs = []
        if objective.cost_first or x.device.type != "cpu":
            costs.append(objective.cost(relaxed))
        there, sent = on_device(relaxed, x.device, *costs)

        def total(loss: Tensor) -> Tensor:
            if not costs:
                costs.append(objective.cost(relaxed))
            return objective.total(loss, sent[0] if sent else costs[0])

        self.train_choices(x, labels, there, total)
        return costs[0].detach()

    def train_choices(
        self, x: Tensor, labels: Tensor, relaxed: Drawn, total: Callable[[Tensor], Tensor]
    ) -> None:
        """One update of the choices to lower the total objective of a relaxation's loss.

        A unified supernet computes mixtures in its evaluation mode, as in SGNAS's own architecture
        steps: with frozen weights it then keeps only one map per kernel.
        """
        assert self.adam is not None and self.relaxation is not None
        if isinstance(self.supernet, UnifiedSupernet):
            self.supernet.eval()
        self.adam.zero_grad(set_to_none=True)
        for parameter in self.parameters:
            parameter.requires_grad_(False)  # frozen weights need no backward pass
        loss = self._loss(x, labels, relaxed)
        self.scaler.scale(total(loss)).backward()  # type: ignore[no-untyped-call]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self._update(self.adam, list(self.relaxation.parameters()), self.rules.alpha_clip)
        self.relaxation.project()

    def _loss(self, x: Tensor, labels: Tensor, relaxed: Drawn) -> Tensor:
        with self.torch_device.autocast():
            outputs = self.supernet(x, relaxed)
        return loss_of(self.criterion, outputs, labels)

    def _update_elsewhere(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip: float
    ) -> None:
        """One step on the CPU by gradients that are scaled for the GPU.

        The scaler sends its scale to other devices without waiting for the copy. So the scale is
        read here, which waits.
        """
        scale = self.scaler.get_scale()
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_div_(grads, scale)
        if not all(bool(grad.isfinite().all()) for grad in grads):
            self.scaler.update(scale * self.scaler.get_backoff_factor())
            return
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()

    def _update(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip: float
    ) -> None:
        """Average the gradients over the processes, clip them, and take one step."""
        self.workers.average_gradients(parameters)
        if self.scaler.is_enabled() and parameters[0].device != self.torch_device.device:
            self._update_elsewhere(optimizer, parameters, clip)
            return
        if clip:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()
