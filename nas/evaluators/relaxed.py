"""Trained supernets that evaluate networks and train generators."""

from __future__ import annotations

from abc import abstractmethod
from copy import copy
from dataclasses import replace
from typing import Any, Generic, Self, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from latbench.render.torch import NetworkModule
from nas.data.images import ImageData, Source, batches, generator
from nas.evaluators.base import Evaluator
from nas.spaces import Architecture
from nas.tasks import task_of
from nas.tasks.base import EVALUATION_BATCH_SIZE
from nas.training.distributed import ALONE, Workers
from nas.training.torch_device import CPU, TorchDevice
from nas.training.unified_training import Parts, UnifiedRecipe, device_of, selection_fitness

S = TypeVar("S", bound=nn.Module)


class RelaxedEvaluator(Evaluator, Generic[S]):
    """A frozen supernet with the images that train and evaluate generators.

    A score is the fitness of the calibrated network on the selection images. The data's task
    defines it: accuracy for classes, minus the loss for faces.

    Args:
        supernet: Trained supernet; its weights are frozen from now on.
        data: Data set of the images.
        parts: Images that train generators, and selection images.
        recipe: Constants of the supernet's training and of calibration.
        criterion: The loss that the supernet was trained with; frozen from now on.
        torch_device: Device and precision of the training of generators.
        workers: The processes that evaluate together.
    """

    def __init__(
        self,
        supernet: S,
        data: ImageData,
        parts: Parts,
        recipe: UnifiedRecipe,
        *,
        criterion: nn.Module,
        torch_device: TorchDevice = CPU,
        workers: Workers = ALONE,
    ) -> None:
        super().__init__()
        self.supernet = supernet
        supernet.requires_grad_(False).eval().zero_grad()  # frees the gradients of the last step
        self.criterion = criterion.requires_grad_(False).eval()
        self.data, self.parts, self.recipe = data, parts, recipe
        self.torch_device, self.workers = torch_device, workers

    def on(self, images: Source, *, calibrated: float = 1.0) -> Self:
        """The same supernet, evaluated on other images.

        Args:
            images: Selection images.
            calibrated: Share of the batches that calibrate; at least one batch does.
        """
        other, most = copy(self), self.recipe.calibration_batches
        other.parts = replace(self.parts, selection=images)
        fewer = max(1, round(calibrated * most))
        other.recipe = msgspec.structs.replace(self.recipe, calibration_batches=fewer)
        return other

    @torch.no_grad()
    def hits(self, architecture: Architecture) -> Tensor:
        """Mask of the selection images that the calibrated network classifies correctly.

        Returns:
            Bool ``(N,)``, the images in the same order for all architectures.

        Raises:
            InvalidValueError: The data set has no classes.
        """
        if self.data.task != "classification":
            raise InvalidValueError(
                f"{self.data.name} is a data set for {self.data.task}: correct images are counted "
                "in data sets of classes only"
            )
        network = self.network(architecture).for_evaluation()
        shown = batches(self.parts.selection, EVALUATION_BATCH_SIZE, generator(0), drop_last=False)
        inputs = task_of(self.data, device_of(network)).inputs(shown)
        return torch.cat([network(x).argmax(1) == labels for x, labels in inputs])

    @torch.no_grad()
    def _score(self, architecture: Architecture) -> float:
        return selection_fitness(
            self.network(architecture).for_evaluation(),
            self.data,
            self.parts,
            criterion=self.criterion,
            workers=self.workers,
        )

    @abstractmethod
    def network(self, architecture: Architecture) -> NetworkModule:
        """The network of an architecture with the supernet's weights, its batch norms calibrated
        on training images.
        """

    @abstractmethod
    def outputs(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """Outputs of the supernet with every choice weighted by its probability.

        Args:
            images: Normalised images ``(N, 3, S, S)``, channels last.
            probabilities: Probabilities of choices ``(L, G, C)`` (``nas.generator.planes``).

        Returns:
            ``(N, outputs)``, differentiable by the probabilities.
        """


AnyRelaxedEvaluator = RelaxedEvaluator[Any]
"""A relaxed evaluator with either kind of supernet."""
