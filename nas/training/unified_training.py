"""Training of SGNAS's unified supernet, and evaluation of its networks.

Each step of the training (``nas.training.bilevel``) computes four fair paths
(``nas.training.strategies.kernel_paths``), sums their gradients and makes one update. The criterion
is the recipe's: label-smoothed cross entropy as published, or the angular margin for faces.
Parameters of the criterion are trained with the weights. The learning rate falls along a cosine to
zero over all steps (published: over far more steps than there are, so it hardly falls). Training
images are divided into three parts: for weights, for the generator and for selection. The last part
trains nothing.

A run resumes from its last finished epoch and ends bit-identical to an uninterrupted one. Under
``torchrun`` every process draws the same batches and paths, computes on its part of each batch and
averages gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from latbench.progress import Progress, silent
from latbench.render.torch import NetworkModule
from nas.data.fit import require_images
from nas.data.images import ImageData, Source, batches, generator
from nas.recipes import Count, Fraction, NotNegative, Positive, Share
from nas.spaces import SearchSpace
from nas.supernet.unified_supernet import Path, UnifiedSupernet, unified_supernet
from nas.tasks import task_of
from nas.training.bilevel import Bilevel, EpochResult, loss_and_lr
from nas.training.bilevel_settings import Plan, Streams
from nas.training.calibration import calibrate
from nas.training.criterion import check_batches, criterion_of, loss_of
from nas.training.distributed import ALONE, Workers
from nas.training.epochs import Values, resume
from nas.training.gradients import add_gradients
from nas.training.optimizer import start_velocities
from nas.training.recipe import SearchRecipe
from nas.training.run_folder import RunFolder
from nas.training.steps import TrainingImages
from nas.training.strategies.base import Drawn
from nas.training.strategies.kernel_paths import FairPaths, FreshFairKernels
from nas.training.torch_device import CPU, TorchDevice

_PHASE = "supernet"
_WATCHED = 1  # stream of the paths whose accuracy is logged; training draws its own
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
        alike: Correlation of the initial weights of a layer's operations or sub-blocks; 0 as
            published.
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
        criterion: The loss, whose parameters are changed in place; if None, that of
            ``UnifiedRecipe``.
        torch_device: Device of the training; the criterion is moved there.
        workers: The processes that train together.
        progress: Callback with the fraction done and a short description.

    Raises:
        LatbenchError: The criterion or the batches do not fit the data.
    """
    check_batches(recipe, workers, parts=[parts.weights])
    if criterion is None:
        criterion = criterion_of(data, space.classes, recipe, seed=seed, default="scratch")
    supernet = unified_supernet(space, seed=seed, alike=recipe.alike)
    state = UnifiedTraining(
        supernet, criterion, recipe, seed=seed, torch_device=torch_device, workers=workers
    )
    state.resume(folder)
    watched = FairPaths(len(space.layers), np.random.default_rng([seed, _WATCHED])).step()

    def scored(result: EpochResult) -> Values:
        found = [
            fitness(supernet, path, data, parts, recipe, criterion=criterion, workers=workers)
            for path in watched
        ]
        return {**loss_and_lr(result), "score": sum(found) / len(found)}

    plan = Plan(
        images=TrainingImages.of(
            data, parts.weights, recipe, workers=workers, torch_device=torch_device
        ),
        streams=lambda epoch: Streams.of(seed, epoch),
        epochs=recipe.epochs,
        lr=recipe.lr,
        lr_changes="step",
    )
    state.run(plan, folder, phase=_PHASE, end_epoch=scored, progress=progress)
    return supernet.eval()


class UnifiedTraining(Bilevel):
    """State of the training: supernet, criterion and SGD; it has no architecture steps.

    The part that all paths of a step share is computed once, forward and backward.

    Args:
        supernet: Supernet; moved to the device.
        criterion: The loss; moved to the device.
        recipe: Constants of the training.
        seed: Seed of the paths.
        torch_device: Device and precision of the steps.
        workers: The processes that train together.
    """

    supernet: UnifiedSupernet
    sgd: torch.optim.SGD

    def __init__(
        self,
        supernet: UnifiedSupernet,
        criterion: nn.Module,
        recipe: UnifiedRecipe,
        *,
        seed: int,
        torch_device: TorchDevice = CPU,
        workers: Workers = ALONE,
    ) -> None:
        torch_device.place(criterion)
        torch_device.place(supernet)
        learned = list(criterion.parameters())
        sgd = torch.optim.SGD(
            [*supernet.parameters(), *learned],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=updates_at_once(torch_device),
        )
        super().__init__(
            supernet,
            FreshFairKernels(supernet.space, seed),
            criterion,
            sgd=sgd,
            torch_device=torch_device,
            workers=workers,
            parts={
                "supernet": supernet,
                "sgd": sgd,
                "criterion": criterion if learned else None,
            },
        )

    def resume(self, folder: RunFolder) -> None:
        """Go on from a checkpoint if there is one, possibly of another device."""
        resume(self, folder, _PHASE)
        fused = updates_at_once(self.torch_device)
        for group in self.sgd.param_groups:
            group["fused"] = fused
        if fused:
            start_velocities(self.sgd)

    def add_gradients(self, x: Tensor, labels: Tensor, drawn: Sequence[Drawn]) -> list[Tensor]:
        with self.torch_device.autocast():
            begun = self.supernet.begin(x)
        shared = begun.detach().requires_grad_()
        losses = []
        for path in drawn:
            with self.torch_device.autocast():
                outputs = self.supernet.finish(shared, path)
            loss = loss_of(self.criterion, outputs, labels)
            add_gradients(self.scaler.scale(loss), [*self.parameters, shared])
            losses.append(loss.detach())
        begun.backward(shared.grad)  # type: ignore[no-untyped-call]
        return losses


def updates_at_once(torch_device: TorchDevice) -> bool | None:
    """Whether an update is one call for all parameters; None, for the CPU, leaves it to torch.

    By default torch makes two calls for every parameter on a GPU as long as any of them was never
    trained, and a parameter that few paths use is trained late.
    """
    return True if torch_device.device.type == "cuda" else None


def answer(
    supernet: UnifiedSupernet,
    path: Path,
    data: ImageData,
    parts: Parts,
    recipe: UnifiedRecipe,
) -> NetworkModule:
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
    network = answer(supernet, path, data, parts, recipe).for_evaluation()
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
    shown = islice(batches(parts.weights.plain(), size, generator(0)), recipe.calibration_batches)
    for images, _ in task_of(data, device).inputs(shown):
        yield images


def device_of(model: nn.Module) -> torch.device:
    """Device of a model."""
    return next(model.parameters()).device
