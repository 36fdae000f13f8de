"""Training the unified supernet of SGNAS, and judging what comes out of it.

Four fair paths a step (``nas.training.strategies.unified``), the criterion of the recipe, gradients
summed, one update. The criterion is label-smoothed cross entropy as published, or the angular
margin on faces; what it learns is trained with the weights. The learning rate falls along a cosine
to zero over all steps (published: over far more steps than there are, so that it hardly falls).
Training images are divided three ways, for weights, generator and selection; the last part is seen
by neither training.

A run goes on from its last finished epoch and ends bit-identical to an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from nas.data.images import ImageData, Source, batches, generator, require_images
from nas.recipes import Count, Fraction, NotNegative, Positive, Share
from nas.spaces import SearchSpace
from nas.supernet.unified import Path, UnifiedSupernet
from nas.tasks import task_of
from nas.training.calibration import calibrate
from nas.training.criterion import check_batches, criterion_of
from nas.training.epochs import (
    Progress,
    Report,
    Resumable,
    TrainingImages,
    Values,
    resume,
    run_epochs,
)
from nas.training.optimizer import cosine, set_lr
from nas.training.recipe import SearchRecipe
from nas.training.run_folder import RunFolder
from nas.training.strategies.unified import FairPaths

_PHASE = "supernet"
_SELECTION_STREAM = 1  # keeps the order of the second division apart from the first


class UnifiedRecipe(SearchRecipe, frozen=True, kw_only=True):
    """How the supernet is trained; the defaults are the published values for ImageNet.

    Files of recipes are of kinds that say more, such as ``sgnas``.

    Where ``criterion`` is empty, the loss is the one that networks of the data's task are trained
    with from scratch: label smoothing of 0.1 for classes, as published, and the angular margin for
    faces.

    Attributes:
        held_out_from: Images that the weights do not see: a share of the training images, or the
            test images. With ``test`` all training images train the weights, and the test images
            choose architectures: accuracies on them are then too high for a final result.
        selection: Share of the held-out images that only select; the others train a generator.
        weight_decay: L2 penalty on all parameters, norms included, as published.
        alike: Correlation of the sub-blocks' first weights; 0 starts as published.
        calibration_batches: Batches of training images that the batch norms of a network see
            before it is judged.
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
    """Images in three parts: the supernet's, the generator's, and those that select."""

    weights: Source
    generator: Source
    selection: Source


def divide(data: ImageData, recipe: UnifiedRecipe, *, seed: int) -> Parts:
    """Divide the images at random.

    Raises:
        InvalidValueError: There are too few of them; or test images are to be held out where they
            show other identities than the training images.
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
        LatbenchError: As ``criterion_of``.
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
    progress: Progress = lambda fraction, words: None,
) -> UnifiedSupernet:
    """Train to the end of the recipe; return the supernet in evaluation mode.

    Args:
        space: Space of unified blocks.
        data: Data set of the images.
        parts: Paths are trained on ``weights`` and watched on ``selection``.
        recipe: Constants.
        folder: Where checkpoints and metrics are kept; a run there goes on.
        seed: Seed of weights, paths, order and augmentation.
        criterion: The loss, changed in place where it learns. ``unified_criterion`` if None.
        progress: Gets the fraction done, and what is going on.

    Raises:
        LatbenchError: The criterion or the batches do not fit the data.
    """
    check_batches(recipe)
    if criterion is None:
        criterion = unified_criterion(data, space.classes, recipe, seed=seed)
    supernet = UnifiedSupernet(space, seed=seed).to(memory_format=torch.channels_last)
    if recipe.alike:
        supernet.start_alike(recipe.alike)
    learned = list(criterion.parameters())
    sgd = torch.optim.SGD(
        [*supernet.parameters(), *learned],
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    state = Resumable(supernet=supernet, sgd=sgd, criterion=criterion if learned else None)
    resume(state, folder, _PHASE)
    images = TrainingImages(
        data, parts.weights, recipe.batch_size, recipe.shift, per_class=recipe.per_class
    )
    watched = FairPaths(len(space.layers), np.random.default_rng([seed])).step()

    def train_epoch(report: Report) -> Values:
        supernet.train()
        epoch = state.epoch
        order, shifts = (generator(seed, epoch, use) for use in range(2))
        drawn = FairPaths(len(space.layers), np.random.default_rng([seed, epoch]))

        def step(number: int, x: Tensor, labels: Tensor) -> float:
            set_lr(sgd, cosine(recipe.lr, (epoch + number / images.steps) / recipe.epochs))
            return supernet_step(supernet, sgd, x, labels, drawn.step(), criterion=criterion)

        loss = images.show(step, report, order=order, shifts=shifts)
        judged = [
            fitness(supernet, path, data, parts, recipe, criterion=criterion) for path in watched
        ]
        return {"loss": loss, "lr": sgd.param_groups[0]["lr"], "score": sum(judged) / len(judged)}

    run_epochs(state, recipe.epochs, train_epoch, folder, phase=_PHASE, progress=progress)
    return supernet.eval()


def supernet_step(
    supernet: UnifiedSupernet,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    paths: list[list[list[int]]],
    *,
    criterion: nn.Module,
) -> float:
    """One update by the summed gradients of some paths; return their mean loss.

    What the paths share is computed once, forward and backward.
    """
    optimizer.zero_grad(set_to_none=True)
    begun = supernet.begin(images)
    shared = begun.detach().requires_grad_()
    total = 0.0
    for path in paths:
        loss = criterion(supernet.finish(shared, path), labels)
        loss.backward()
        total += float(loss.detach())
    begun.backward(shared.grad)  # type: ignore[no-untyped-call]
    optimizer.step()
    return total / len(paths)


def answer(
    supernet: UnifiedSupernet,
    path: Path,
    data: ImageData,
    parts: Parts,
    recipe: UnifiedRecipe,
) -> nn.Module:
    """The network of a path with the supernet's weights, its batch norms calibrated."""
    network = supernet.cut(path)
    calibrate(network, calibration_inputs(data, parts, recipe))
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
) -> float:
    """Fitness of a path's calibrated network on the images that select.

    The data's task defines it: accuracy, a fraction, for classes; minus the loss for faces.
    """
    network = answer(supernet, path, data, parts, recipe)
    return task_of(data).mean_fitness(network, parts.selection, criterion)


def calibration_inputs(data: ImageData, parts: Parts, recipe: UnifiedRecipe) -> Iterator[Tensor]:
    """Batches of training images as they are, always the same ones."""
    size = min(recipe.batch_size, len(parts.weights))
    for i, (images, _) in enumerate(batches(parts.weights, size, generator(0))):
        if i == recipe.calibration_batches:
            return
        yield data.to_input(images)
