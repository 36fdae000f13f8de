"""Trained supernets that judge networks and train generators."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from nas.data.images import ImageData, batches, generator
from nas.evaluators.base import Evaluator
from nas.spaces import Architecture
from nas.tasks import task_of
from nas.tasks.base import JUDGED_AT_ONCE
from nas.training.unified import Parts, UnifiedRecipe


class RelaxedJudge(Evaluator):
    """A frozen supernet with the images to train and to judge generators on.

    A score is the fitness of the calibrated network on the images that select, as the data's task
    defines it: accuracy for classes, minus the loss for faces.

    Args:
        supernet: Trained; its weights are frozen from here on.
        data: Data set of the images.
        parts: Images to train generators on, and those that select.
        recipe: How the supernet was trained, and networks are calibrated.
        criterion: The loss that the supernet was trained with; frozen from here on.
    """

    def __init__(
        self,
        supernet: nn.Module,
        data: ImageData,
        parts: Parts,
        recipe: UnifiedRecipe,
        *,
        criterion: nn.Module,
    ) -> None:
        super().__init__()
        supernet.requires_grad_(False).eval().zero_grad()  # gradients of the last step take memory
        self.criterion = criterion.requires_grad_(False).eval()
        self.data, self.parts, self.recipe = data, parts, recipe

    @torch.no_grad()
    def hits(self, architecture: Architecture) -> Tensor:
        """Mask of the selection images that the calibrated network classifies correctly.

        Returns:
            Bool ``(N,)``, the images in the same order for all architectures.

        Raises:
            InvalidValueError: The data has no classes.
        """
        if self.data.task != "classification":
            raise InvalidValueError(
                f"{self.data.name} is a data set for {self.data.task}: correct images are counted "
                "in data sets of classes only"
            )
        network = self.network(architecture)
        shown = batches(self.parts.selection, JUDGED_AT_ONCE, generator(0), drop_last=False)
        found = [network(self.data.to_input(x)).argmax(1) == labels for x, labels in shown]
        return torch.cat(found)

    @torch.no_grad()
    def _score(self, architecture: Architecture) -> float:
        network = self.network(architecture)
        return task_of(self.data).mean_fitness(network, self.parts.selection, self.criterion)

    @abstractmethod
    def network(self, architecture: Architecture) -> nn.Module:
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
