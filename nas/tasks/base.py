"""What a task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from nas.criteria import make_criterion
from nas.data.feed import Batch, feed
from nas.data.images import ImageData, Source, batches, generator

JUDGED_AT_ONCE = 256  # images

Model = Callable[[Tensor], Tensor]
"""Normalised images ``(N, 3, S, S)`` to outputs ``(N, outputs)``, on the task's torch device."""

CPU = torch.device("cpu")


class Task(ABC):
    """What the networks of a data set are for.

    Args:
        data: The data set.
        device: Where networks compute.

    Attributes:
        criterion_name: The loss of searches, where nothing else is asked for.
        scratch_criterion: That of trainings from scratch, where the recipe names none.
        metric: Which of the final metrics counts; a fraction, higher is better.
        embeds: Whether networks may give embeddings instead of a logit a class.
        fitness_name: What people are told that a fitness is, beside what ``shown`` makes of it.
    """

    criterion_name: ClassVar[str]
    scratch_criterion: ClassVar[str]
    metric: ClassVar[str]
    embeds: ClassVar[bool] = False
    fitness_name: ClassVar[str] = "fitness"

    def __init__(self, data: ImageData, device: torch.device = CPU) -> None:
        self.data = data
        self.device = device

    def inputs(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Images and labels as networks see them: normalised, on the device."""
        for images, labels in feed(batches, self.device):
            yield self.data.to_input(images), labels

    def criterion(
        self,
        outputs: int,
        *,
        name: str | None = None,
        options: Mapping[str, float | str] | None = None,
    ) -> nn.Module:
        """The loss for a network of these outputs: outputs and labels ``(N,)`` to a scalar.

        Raises:
            LatbenchError: No such criterion or option, or it does not fit the task or the outputs.
        """
        name = name or self.criterion_name
        made = make_criterion(name, outputs=outputs, classes=self.data.classes, options=options)
        if not self.embeds and getattr(made, "embeds", False):
            raise InvalidValueError(
                f"{name} trains embeddings, and {self.data.name} is a data set of classes: choose "
                "cross-entropy, label-smoothing or focal"
            )
        return made

    @abstractmethod
    def fitness(self, outputs: Tensor, labels: Tensor, criterion: nn.Module) -> Tensor:
        """How good outputs are for held-out training images; higher is better.

        The mean over the batch, a scalar where the outputs lie, which searchers average over
        batches by their size.
        """

    @staticmethod
    def shown(fitness: float) -> str:
        """A fitness as people read it."""
        return f"{fitness:.3f}"

    @torch.no_grad()
    def mean_fitness(self, model: Model, source: Source, criterion: nn.Module) -> float:
        """The mean fitness of images that were held out from training."""
        counts, found = [], []  # read when all is computed
        shown = batches(source, JUDGED_AT_ONCE, generator(0), drop_last=False)
        for images, labels in self.inputs(shown):
            counts.append(len(labels))
            found.append(self.fitness(model(images), labels, criterion))
        values = torch.stack(found).cpu().tolist()
        total = sum(count * value for count, value in zip(counts, values, strict=True))
        return float(total) / len(source)

    @abstractmethod
    def test(self, model: Model) -> dict[str, float]:
        """The final metrics, by name, of a network in its evaluation mode."""
