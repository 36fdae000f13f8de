"""The loss that a recipe names, its computation in a step, and a check of its batches.

The same rules hold for searches and for trainings from scratch: a recipe names a criterion and its
options, or leaves the choice to the task of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from nas.data.images import ImageData, Source
from nas.tasks import task_of
from nas.training.distributed import ALONE, LEAST_IMAGES, Workers

_FEWEST_CLASSES = 2  # in a batch by class: losses of embeddings compare images of two classes


class Loss(Protocol):
    """The part of a recipe that names the loss and describes the batches."""

    @property
    def criterion(self) -> str: ...

    @property
    def options(self) -> Mapping[str, float | str]: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def per_class(self) -> int: ...


def criterion_of(
    data: ImageData,
    outputs: int,
    recipe: Loss,
    *,
    seed: int = 0,
    default: Literal["search", "scratch"] = "search",
) -> nn.Module:
    """The criterion of a search or of a training from scratch.

    Args:
        data: Data set; its task defines which criteria fit and which ones are the defaults.
        outputs: Number of outputs of the networks.
        recipe: Recipe with the name and the options of the criterion.
        seed: Seed of the criterion's own parameters.
        default: Criterion if the recipe names none: the task's for searches, or for trainings
            from scratch.

    Raises:
        LatbenchError: The criterion or an option is unknown, or it does not fit the task or the
            outputs.
    """
    task = task_of(data)
    usual = task.criterion_name if default == "search" else task.scratch_criterion
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.criterion(outputs, name=recipe.criterion or usual, options=recipe.options)


def loss_of(criterion: nn.Module, outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss of outputs, a scalar in single precision, also where autocast is on.

    Losses of embeddings contain matrix products, which autocast would compute in half precision.
    """
    precise = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # double stays double
    with torch.autocast(outputs.device.type, enabled=False):
        loss: Tensor = criterion(precise, labels)
    return loss


def check_batches(recipe: Loss, workers: Workers = ALONE, *, parts: Sequence[Source] = ()) -> None:
    """Refuse batches that do not divide among processes or classes, or that images cannot fill.

    Args:
        recipe: Recipe with the batch size.
        workers: The processes that train together.
        parts: Parts of the images that are trained on in batches.

    Raises:
        InvalidValueError: A batch does not divide; or a part has too few images or classes for one.
            The message gives batch sizes that fit.
    """
    workers.share(recipe.batch_size)
    if recipe.per_class and recipe.batch_size % (recipe.per_class * workers.count):
        raise InvalidValueError(
            f"batches of {recipe.batch_size} images cannot show {recipe.per_class} of each class "
            f"in {workers.count} processes: choose a multiple of "
            f"{recipe.per_class * workers.count}"
        )
    if parts and recipe.per_class:
        known = min(int(torch.bincount(part.labels).count_nonzero()) for part in parts)
        _check_classes(recipe, known, workers.count)
    elif parts:
        _check_images(recipe, min(map(len, parts)), workers)


def _check_classes(recipe: Loss, known: int, processes: int) -> None:
    """Refuse batches by class with one class a process, or with more than a part has.

    Classes lie next to each other in a batch, so each process sees some of them.
    """
    shown, step = recipe.batch_size // recipe.per_class, recipe.per_class * processes
    if _FEWEST_CLASSES * processes <= shown <= known:
        return
    fewest = max(_FEWEST_CLASSES * recipe.per_class, LEAST_IMAGES) * processes
    low, high = -(-fewest // step) * step, known * recipe.per_class // step * step
    remedy = f"choose {low} to {high} images" + (f", a multiple of {step}" if step > 1 else "")
    if low > high:
        remedy = "choose a smaller per_class, or 0, or give more images"
    raise InvalidValueError(
        f"batches of {recipe.batch_size} images with {recipe.per_class} of each class show "
        f"{shown} classes; they need {_FEWEST_CLASSES * processes} or more, and a part of the "
        f"images has {known}: {remedy}"
    )


def _check_images(recipe: Loss, fewest: int, workers: Workers) -> None:
    """Refuse a part of the images that is smaller than a batch and does not divide as one."""
    usable = fewest // workers.count * workers.count
    if recipe.batch_size <= fewest:
        return
    if LEAST_IMAGES * workers.count <= usable < fewest:
        raise InvalidValueError(
            f"a part of the images has {fewest}, fewer than a batch of {recipe.batch_size}, and "
            f"they do not divide among {workers.count} processes: choose a batch size up to "
            f"{usable}, a multiple of {workers.count}"
        )
    workers.share(max(usable, workers.count))  # refuses one image for each
