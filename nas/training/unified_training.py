"""Training of SGNAS's unified supernet, and evaluation of its networks.

Each step computes four fair paths (``nas.training.strategies.kernel_paths``), sums their gradients
and makes one update. The criterion is the recipe's: label-smoothed cross entropy as published, or
the angular margin for faces. Parameters of the criterion are trained with the weights. The learning
rate falls along a cosine to zero over all steps (published: over far more steps than there are, so
it hardly falls). Training images are divided into three parts: for weights, for the generator and
for selection. The last part trains nothing.

A run resumes from its last finished epoch and ends bit-identical to an uninterrupted one. Under
``torchrun`` every process draws the same batches and paths, computes on its part of each batch and
averages gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from latbench.progress import Progress, silent
from nas.data.images import ImageData, Source, batches, generator, require_images
from nas.recipes import Count, Fraction, NotNegative, Positive, Share
from nas.spaces import SearchSpace
from nas.supernet.unified_supernet import Path, UnifiedSupernet
from nas.tasks import task_of
from nas.training.calibration import calibrate
from nas.training.criterion import check_batches, criterion_of
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
from nas.training.optimizer import cosine, set_lr
from nas.training.recipe import SearchRecipe
from nas.training.run_folder import RunFolder
from nas.training.strategies.kernel_paths import FairPaths
from nas.training.torch_device import CPU, TorchDevice

_PHASE = "supernet"
_SELECTION_STREAM = 1  # a separate random stream for the second division of images


class UnifiedRecipe(SearchRecipe, frozen=True, kw_only=True):
    """Settings of the supernet's training; the defaults are the published values for ImageNet.

    Recipe files have a more specific kind, such as ``sgnas``.

    If ``criterion`` is empty, the loss is the one used to train networks of the data's task from
    scratch: label smoothing of 0.1 for classes, as published, and the angular margin for faces.

    Attributes:
        held_out_from: Source of the images that do not train the weights: a share of the training
            images, or the test images. With ``test``, all training images train the weights and the
            test images choose architectures, so accuracies on them are too high for a final result.
        selection: Share of the held-out images that are used only for selection; the others train a
            generator.
        weight_decay: L2 penalty on all parameters, norms included, as published.
        alike: Correlation of the sub-blocks' initial weights; 0 is the published start.
        calibration_batches: Number of batches of training images that calibrate the batch norms of
            a network before it is evaluated.
    """

    epochs: Count = 50
    held_out_from: Literal["train", "test"] = "train"
    selection: Share = 0.5
    lr: Positive = 0.064
    weight_decay: NotNegative = 4e-4
    alike: Fraction = 0.0
    calibration_batches: Count = 8


@dataclass(frozen=True)
class Parts:
    """Images in three parts: for the supernet, for the generator, and for selection."""

    weights: Source
    generator: Source
    selection: Source


def divide(data: ImageData, recipe: UnifiedRecipe, *, seed: int) -> Parts:
    """Divide the images at random.

    Raises:
        InvalidValueError: There are too few images; or the test images should be held out, but show
            other identities than the training images.
    """
    if recipe.held_out_from == "train":
        weights, rest = data.held_out(recipe.held_out, seed=seed)
    elif data.pairs is not None:
        raise InvalidValueError(
            f"the test images of {data.name} show other people than the training images, so the "
            "loss is not defined for them: choose held_out_from=train"
        )
    else:
        weights, rest = data.train, data.test.plain()
    order = torch.randperm(len(rest), generator=generator(seed, _SELECTION_STREAM))
    count = round(len(rest) * (1 - recipe.selection))
    parts = Parts(weights, rest.take(order[:count]), rest.take(order[count:]))
    require_images(data, parts.weights, parts.generator, parts.selection)
    return parts


def unified_criterion(
    data: ImageData, outputs: int, recipe: UnifiedRecipe, *, seed: int
) -> nn.Module:
    """The loss of supernet and generator; see ``UnifiedRecipe``.

    Raises:
        LatbenchError: The same errors as ``criterion_of``.
    """
    name = recipe.criterion or task_of(data).scratch_criterion
    return criterion_of(data, outputs, msgspec.structs.replace(recipe, criterion=name), seed=seed)


def train_unified(
    space: SearchSpace,
    data: ImageData,
    parts: Parts,
    recipe: UnifiedRecipe,
    folder: RunFolder,
    *,
    seed: int,
    criterion: nn.Module | None = None,
    torch_device: TorchDevice = CPU,
    workers: Workers = ALONE,
    progress: Progress = silent,
) -> UnifiedSupernet:
    """Train to the end of the recipe; return the supernet in evaluation mode, on the device.

    Args:
        space: Space of unified blocks.
        data: Data set of the images.
        parts: Divided images; ``weights`` train paths, ``selection`` gives their logged accuracy.
        recipe: Constants of the training.
        folder: Folder for checkpoints and metrics; a run there is resumed.
        seed: Seed of weights, paths, order and augmentation.
        criterion: The loss; its parameters are changed in place. ``unified_criterion`` if None.
        torch_device: Device of the training; the criterion is moved there.
        workers: The processes that train together.
        progress: Callback with the fraction done and a short description.

    Raises:
        LatbenchError: The criterion or the batches do not fit the data.
    """
    check_batches(recipe, workers)
    if criterion is None:
        criterion = unified_criterion(data, space.classes, recipe, seed=seed)
    torch_device.place(criterion)
    supernet = UnifiedSupernet(space, seed=seed)
    if recipe.alike:
        supernet.start_alike(recipe.alike)
    torch_device.place(supernet)
    learned = list(criterion.parameters())
    sgd = torch.optim.SGD(
        [*supernet.parameters(), *learned],
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=updates_at_once(torch_device),
    )
    scaler = torch_device.scaler()
    state = Resumable(
        supernet=supernet,
        sgd=sgd,
        criterion=criterion if learned else None,
        **scaler_part(scaler),
    )
    resume(state, folder, _PHASE)
    _prepare(sgd, torch_device)
    images = TrainingImages(
        data,
        parts.weights,
        recipe.batch_size,
        recipe.shift,
        workers,
        per_class=recipe.per_class,
        torch_device=torch_device,
    )
    watched = FairPaths(len(space.layers), np.random.default_rng([seed])).step()

    def train_epoch(report: Report) -> Values:
        supernet.train()
        epoch = state.epoch
        order, shifts = (generator(seed, epoch, use) for use in range(2))
        drawn = FairPaths(len(space.layers), np.random.default_rng([seed, epoch]))

        def step(number: int, x: Tensor, labels: Tensor) -> Tensor:
            set_lr(sgd, cosine(recipe.lr, (epoch + number / images.steps) / recipe.epochs))
            return supernet_step(
                supernet,
                sgd,
                x,
                labels,
                drawn.step(),
                criterion=criterion,
                torch_device=torch_device,
                scaler=scaler,
                workers=workers,
            )

        loss = images.show(step, report, order=order, shifts=shifts)
        workers.average_buffers(supernet)
        scores = [
            fitness(supernet, path, data, parts, recipe, criterion=criterion, workers=workers)
            for path in watched
        ]
        return {"loss": loss, "lr": sgd.param_groups[0]["lr"], "score": sum(scores) / len(scores)}

    run_epochs(
        state,
        recipe.epochs,
        train_epoch,
        folder,
        phase=_PHASE,
        workers=workers,
        torch_device=torch_device,
        batch_size=recipe.batch_size,
        progress=progress,
    )
    return supernet.eval()


def supernet_step(
    supernet: UnifiedSupernet,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    paths: list[list[list[int]]],
    *,
    criterion: nn.Module,
    torch_device: TorchDevice = CPU,
    scaler: torch.amp.GradScaler | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """Do one update with the summed gradients of some paths; return their mean loss.

    The part that all paths share is computed once, forward and backward.

    Args:
        supernet: Supernet in training mode.
        optimizer: Optimiser of the supernet and of the criterion's parameters.
        images: This process's share of the normalised images, ``(B, 3, S, S)``.
        labels: Labels ``(B,)``.
        paths: Choices of the paths, ``(paths, layers, 6)``.
        criterion: The loss.
        torch_device: Device, which also sets the precision.
        scaler: Scaler of the loss; if None, a new one for this step.
        workers: The processes that train together.

    Returns:
        A scalar without gradient, on the device.
    """
    scaler = scaler or torch_device.scaler()
    optimizer.zero_grad(set_to_none=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with torch_device.autocast():
        begun = supernet.begin(images)
    shared = begun.detach().requires_grad_()
    losses = []
    for path in paths:
        with torch_device.autocast():
            loss = criterion(supernet.finish(shared, path), labels)
        _add_gradients(scaler.scale(loss), [*parameters, shared])
        losses.append(loss.detach())
    begun.backward(shared.grad)  # type: ignore[no-untyped-call]
    workers.average_gradients(parameters)
    scaler.step(optimizer)
    scaler.update()
    return mean_loss(losses)


def updates_at_once(torch_device: TorchDevice) -> bool | None:
    """Whether an update is one call for all parameters; None, for the CPU, leaves it to torch.

    By default torch makes two calls for every parameter on a GPU as long as any of them was never
    trained, and a parameter that few paths use is trained late.
    """
    return True if torch_device.device.type == "cuda" else None


def _prepare(sgd: torch.optim.SGD, torch_device: TorchDevice) -> None:
    """Prepare an optimiser, possibly restored from another device, for this one."""
    fused = updates_at_once(torch_device)
    for group in sgd.param_groups:
        group["fused"] = fused
        if fused and group["momentum"]:  # a fused update needs all velocities from the start
            for parameter in group["params"]:
                velocity = sgd.state[parameter].get("momentum_buffer")
                if velocity is None:
                    velocity = torch.zeros_like(parameter)
                sgd.state[parameter]["momentum_buffer"] = velocity


def _add_gradients(loss: Tensor, parameters: list[Tensor]) -> None:
    """Add the gradients of a loss to those of the parameters, as ``backward`` does.

    On a GPU this takes few calls; ``backward`` makes one for every parameter.
    """
    if loss.device.type == "cpu":
        loss.backward()  # type: ignore[no-untyped-call]
        return
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    totals: list[Tensor] = []
    added: list[Tensor] = []
    for parameter, part in zip(parameters, found, strict=True):
        if part is None:
            continue
        alike = _lie_alike(part, parameter)  # the gradient may be a view of a larger one
        grad = part if alike else torch.empty_like(parameter).copy_(part)
        if parameter.grad is None:
            parameter.grad = grad
        else:
            totals.append(parameter.grad)
            added.append(grad)
    if totals:
        torch._foreach_add_(totals, added)


def _lie_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have the same memory layout."""
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(mine == theirs for size, mine, theirs in strides if size > 1)


def answer(
    supernet: UnifiedSupernet,
    path: Path,
    data: ImageData,
    parts: Parts,
    recipe: UnifiedRecipe,
) -> nn.Module:
    """The network of a path with the supernet's weights, on its device, with calibrated norms."""
    network = supernet.cut(path)
    calibrate(network, calibration_inputs(data, parts, recipe, device_of(supernet)))
    return network


@torch.no_grad()
def fitness(
    supernet: UnifiedSupernet,
    path: Path,
    data: ImageData,
    parts: Parts,
    recipe: UnifiedRecipe,
    *,
    criterion: nn.Module,
    workers: Workers = ALONE,
) -> float:
    """Fitness of a path's calibrated network on the selection images.

    The data's task defines it: accuracy, a fraction, for classes; minus the loss for faces.
    """
    network = answer(supernet, path, data, parts, recipe)
    return selection_fitness(network, data, parts, criterion=criterion, workers=workers)


@torch.no_grad()
def selection_fitness(
    network: nn.Module,
    data: ImageData,
    parts: Parts,
    *,
    criterion: nn.Module,
    workers: Workers = ALONE,
) -> float:
    """Fitness of a calibrated network on the selection images; each process evaluates a part.

    All processes get the same number, so they make the same decisions.
    """
    task, images = task_of(data, device_of(network)), parts.selection
    if workers.count == 1:
        return task.mean_fitness(network, images, criterion)
    mine = images.take(torch.arange(workers.rank, len(images), workers.count))
    found = len(mine) * task.mean_fitness(network, mine, criterion) if len(mine) else 0.0
    return workers.sum([found])[0] / len(images)


def calibration_inputs(
    data: ImageData, parts: Parts, recipe: UnifiedRecipe, device: torch.device
) -> Iterator[Tensor]:
    """Batches of training images without augmentation, always the same ones, on a device."""
    size = min(recipe.batch_size, len(parts.weights))
    shown = islice(batches(parts.weights, size, generator(0)), recipe.calibration_batches)
    for images, _ in task_of(data, device).inputs(shown):
        yield images


def device_of(model: nn.Module) -> torch.device:
    """Device of a model."""
    return next(model.parameters()).device
