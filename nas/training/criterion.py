"""The loss that a recipe names, and a check of its batches.

The same rules hold for searches and for trainings from scratch: a recipe names a criterion and its
options, or leaves the choice to the task of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import nn

from latbench.errors import InvalidValueError
from nas.data.images import ImageData
from nas.tasks import task_of
from nas.training.distributed import ALONE, Workers


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


def check_batches(recipe: Loss, workers: Workers = ALONE) -> None:
    """Refuse a batch that does not divide among processes or classes.

    Raises:
        InvalidValueError: The batch does not divide; the message gives batch sizes that do.
    """
    workers.share(recipe.batch_size)
    if recipe.per_class and recipe.batch_size % (recipe.per_class * workers.count):
        raise InvalidValueError(
            f"batches of {recipe.batch_size} images cannot show {recipe.per_class} of each class "
            f"in {workers.count} processes: choose a multiple of "
            f"{recipe.per_class * workers.count}"
        )
