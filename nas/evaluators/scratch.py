"""Accuracy after training from scratch: the truth, at the price of a training each."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from nas.data.images import ImageData, require_images
from nas.evaluators.base import Evaluator
from nas.spaces import Architecture, SearchSpace
from nas.tasks import task_of
from nas.training import scratch
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU, TorchDevice


class ScratchEvaluator(Evaluator):
    """Trains every architecture by one recipe; the score is the metric of the data's task.

    For classification that is top-1 accuracy on held-out images; faces are verified on the pairs
    of the data set.

    Args:
        space: Of the architectures.
        data: A part of its training images is held out; test images are not touched.
        recipe: How each is trained.
        folder: Of a run folder an architecture, so that an interrupted training goes on.
        held_out: Of the training images, the part that scores.
        torch_device: Where trainings compute.
    """

    def __init__(
        self,
        space: SearchSpace,
        data: ImageData,
        *,
        recipe: TrainingRecipe,
        folder: Path,
        held_out: float = 0.2,
        torch_device: TorchDevice = CPU,
    ) -> None:
        super().__init__()
        train, judged = data.held_out(held_out, seed=recipe.seed)
        require_images(data, train, judged)
        self.space = space
        self.data = replace(data, train=train, test=judged)
        self._metric = task_of(data).metric
        self.recipe = recipe
        self.folder = folder
        self.torch_device = torch_device

    def _score(self, architecture: Architecture) -> float:
        network = self.space.lower(architecture)
        name = sha256(architecture.to_json().encode()).hexdigest()[:16]
        folder = RunFolder(self.folder / name, {"architecture": architecture.as_dict()})
        score = scratch.train(
            network, self.data, self.recipe, folder, torch_device=self.torch_device
        )
        return score[self._metric]
