"""The base class of tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from nas.criteria import make_criterion
from nas.data.feed import Batch, feed
from nas.data.images import ImageData, Source, batches, generator

EVALUATION_BATCH_SIZE = 256  # images per batch in an evaluation

Model = Callable[[Tensor], Tensor]
"""Normalised images ``(N, 3, S, S)`` to outputs ``(N, outputs)``, on the task's torch device."""

CPU = torch.device("cpu")


class Task(ABC):
    """The purpose of a data set's networks: loss, fitness and metrics.

    Args:
        data: The data set.
        device: Device of the networks.

    Attributes:
        criterion_name: Name of the default loss of searches.
        scratch_criterion: Name of the default loss of trainings from scratch.
        metric: Name of the main final metric; a fraction, higher is better.
        embeds: Whether networks may give embeddings instead of one logit per class.
        fitness_name: Name of the fitness in printed results, next to its value from ``shown``.
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
        """The loss for a network with these outputs; maps outputs and labels ``(N,)`` to a scalar.

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
        """Fitness of outputs for held-out training images; higher is better.

        It is the mean over the batch, a scalar on the outputs' device. Searchers average it over
        batches, weighted by their sizes.
        """

    @staticmethod
    def shown(fitness: float) -> str:
        """A fitness as printed text."""
        return f"{fitness:.3f}"

    @torch.no_grad()
    def mean_fitness(
        self, model: Model, source: Source, criterion: nn.Module, *, even: bool = False
    ) -> float:
        """The mean fitness on images that were held out from training.

        Args:
            model: The network.
            source: The images.
            criterion: The loss.
            even: Cut the images into batches of nearly equal size, for a network whose norms use
                the statistics of each batch. Otherwise the last batch may have a single image.
        """
        counts, found = [], []  # read after everything is computed
        rng = generator(0)
        if even:
            order = torch.randperm(len(source), generator=rng)
            parts = torch.tensor_split(order, math.ceil(len(source) / EVALUATION_BATCH_SIZE))
            shown = source.read(parts, rng)
        else:
            shown = batches(source, EVALUATION_BATCH_SIZE, rng, drop_last=False)
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)  # a criterion may draw, such as triplet
            for images, labels in self.inputs(shown):
                counts.append(len(labels))
                found.append(self.fitness(model(images), labels, criterion))
        values = torch.stack(found).cpu().tolist()
        total = sum(count * value for count, value in zip(counts, values, strict=True))
        return float(total) / len(source)

    @abstractmethod
    def test(self, model: Model) -> dict[str, float]:
        """The final metrics, by name, of a network in evaluation mode."""
