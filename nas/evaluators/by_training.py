"""Accuracy after training from scratch: the most reliable score, and the most expensive."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from nas.data.fit import divided
from nas.data.identity import digest, tested
from nas.data.images import ImageData
from nas.evaluators.base import Evaluator
from nas.spaces import Architecture, SearchSpace
from nas.spaces.identity import network_digest
from nas.tasks import task_of
from nas.training import from_scratch as scratch
from nas.training.recipe import TrainingRecipe
from nas.training.run_config import STRUCTURE
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU, TorchDevice


class ScratchEvaluator(Evaluator):
    """Trains every architecture with one recipe; the score is the metric of the data's task.

    For classification that is top-1 accuracy on held-out images; faces are verified on the pairs
    of the data set.

    Args:
        space: Space of the architectures.
        data: Data set; a part of its training images is held out, test images are not used.
        recipe: Recipe of every training.
        folder: Folder with one run folder per architecture, so that an interrupted training can
            resume. Architectures trained there with another recipe or on other data are refused.
        held_out: Share of the training images that gives the score.
        torch_device: Device of the trainings.
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
        train, selection = divided(data, held_out, seed=recipe.seed)
        self.space = space
        self.data = replace(data, train=train, test=selection)
        self._metric = task_of(data).metric
        self.recipe = recipe
        self.folder = folder
        self.torch_device = torch_device

    def _score(self, architecture: Architecture) -> float:
        network = self.space.lower(architecture)
        name = sha256(architecture.to_json().encode()).hexdigest()[:16]
        config = {
            "architecture": architecture.as_dict(),
            STRUCTURE: network_digest(network),
            "recipe": self.recipe,
            "data": _described(self.data),
        }
        folder = RunFolder(self.folder / name, config)
        score = scratch.train(
            network, self.data, self.recipe, folder, torch_device=self.torch_device
        )
        return score[self._metric]


def _described(data: ImageData) -> dict[str, Any]:
    """Identity of a data set and its division, as JSON values."""
    return {
        "name": data.name,
        "classes": data.classes,
        "mean": data.mean,
        "std": data.std,
        "trained": digest(data.train.labels),
        "tested": digest(*tested(data)),
    }
