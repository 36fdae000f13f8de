"""Training the unified supernet of SGNAS, and judging what comes out of it.

Four fair paths a step (``nas.training.strategies.unified``), label-smoothed cross entropy,
gradients summed, one update. The learning rate falls along a cosine to zero over all steps
(published: over far more steps than there are, so that it hardly falls). Training images are
divided three ways, for weights, generator and selection; the last part is seen by neither training.

A run goes on from its last finished epoch and ends bit-identical to an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data.images import ImageData, Source, batches, generator, require_images
from nas.recipes import Count, Fraction, NotNegative, Positive, Rate, Share
from nas.spaces import SearchSpace
from nas.supernet.unified import Path, UnifiedSupernet
from nas.training.calibration import calibrate
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
_TEST_BATCH = 256
_SELECTION_STREAM = 1  # keeps the order of the second division apart from the first


class UnifiedRecipe(SearchRecipe, frozen=True, kw_only=True, tag="unified-supernet"):
    """How the supernet is trained; the defaults are the published values for ImageNet.

    Attributes:
        selection: Of the held-out images, those that only select; the others train a generator.
        weight_decay: Of all parameters, norms included, as published.
        alike: Correlation of the sub-blocks' first weights; 0 starts as published.
        calibration_batches: Of training images, before an answer is judged.
    """

    epochs: Count = 50
    selection: Share = 0.5
    lr: Positive = 0.064
    weight_decay: NotNegative = 4e-4
    smoothing: Rate = 0.1
    alike: Fraction = 0.0
    calibration_batches: Count = 8


@dataclass(frozen=True)
class Parts:
    """Training images, divided: the supernet's, the generator's, and those that select."""

    weights: Source
    generator: Source
    selection: Source


def divide(data: ImageData, recipe: UnifiedRecipe, *, seed: int) -> Parts:
    """Divide the training images at random.

    Raises:
        InvalidValueError: There are too few of them.
    """
    weights, rest = data.held_out(recipe.held_out, seed=seed)
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
    progress: Progress = lambda fraction, words: None,
) -> UnifiedSupernet:
    """Train to the end of the recipe; return the supernet in evaluation mode.

    Args:
        space: Of unified blocks.
        data: Whose images these are.
        parts: Paths are trained on ``weights`` and watched on ``selection``.
        recipe: How.
        folder: Where checkpoints and metrics are kept; a run there goes on.
        seed: Of weights, paths, order and augmentation.
        progress: Is told the fraction done.
    """
    supernet = UnifiedSupernet(space, seed=seed).to(memory_format=torch.channels_last)
    if recipe.alike:
        supernet.start_alike(recipe.alike)
    sgd = torch.optim.SGD(
        supernet.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    state = Resumable(supernet=supernet, sgd=sgd)
    resume(state, folder, _PHASE)
    images = TrainingImages(data, parts.weights, recipe.batch_size, recipe.shift)
    watched = FairPaths(len(space.layers), np.random.default_rng([seed])).step()

    def train_epoch(report: Report) -> Values:
        supernet.train()
        epoch = state.epoch
        order, shifts = (generator(seed, epoch, use) for use in range(2))
        drawn = FairPaths(len(space.layers), np.random.default_rng([seed, epoch]))

        def step(number: int, x: Tensor, labels: Tensor) -> float:
            set_lr(sgd, cosine(recipe.lr, (epoch + number / images.steps) / recipe.epochs))
            return supernet_step(supernet, sgd, x, labels, drawn.step(), smoothing=recipe.smoothing)

        loss = images.show(step, report, order=order, shifts=shifts)
        judged = [accuracy(supernet, path, data, parts, recipe) for path in watched]
        return {"loss": loss, "lr": sgd.param_groups[0]["lr"], "top1": sum(judged) / len(judged)}

    run_epochs(state, recipe.epochs, train_epoch, folder, phase=_PHASE, progress=progress)
    return supernet.eval()


def supernet_step(
    supernet: UnifiedSupernet,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    paths: list[list[list[int]]],
    *,
    smoothing: float,
) -> float:
    """One update by the summed gradients of some paths; return their mean loss.

    What the paths share is computed once, forward and backward.
    """
    optimizer.zero_grad(set_to_none=True)
    begun = supernet.begin(images)
    shared = begun.detach().requires_grad_()
    total = 0.0
    for path in paths:
        logits = supernet.finish(shared, path)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
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
    """The network of a path with the supernet's weights, its batch norms calibrated.

    Calibration sees training images as they are, always the same ones.
    """
    network = supernet.cut(path)
    calibrate(network, _inputs(data, parts.weights, recipe))
    return network


def accuracy(
    supernet: UnifiedSupernet,
    path: Path,
    data: ImageData,
    parts: Parts,
    recipe: UnifiedRecipe,
) -> float:
    """Accuracy of a path's calibrated network on the images that select, a fraction."""
    return int(hits(supernet, path, data, parts, recipe).sum()) / len(parts.selection)


@torch.no_grad()
def hits(
    supernet: UnifiedSupernet,
    path: Path,
    data: ImageData,
    parts: Parts,
    recipe: UnifiedRecipe,
) -> Tensor:
    """Of which images that select a path's calibrated network says the class: ``(N,)``, bool.

    They are in the same order for all paths.
    """
    network = answer(supernet, path, data, parts, recipe)
    shown = batches(parts.selection, _TEST_BATCH, generator(0), drop_last=False)
    found = [network(data.to_input(images)).argmax(1) == labels for images, labels in shown]
    return torch.cat(found)


def _inputs(data: ImageData, split: Source, recipe: UnifiedRecipe) -> Iterator[Tensor]:
    size = min(recipe.batch_size, len(split))
    for i, (images, _) in enumerate(batches(split, size, generator(0))):
        if i == recipe.calibration_batches:
            return
        yield data.to_input(images)
