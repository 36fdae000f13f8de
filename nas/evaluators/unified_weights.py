"""A trained unified supernet, as an evaluator of networks and of generators."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from latbench.progress import Progress, silent
from latbench.render.torch import NetworkModule
from nas.data.images import ImageData
from nas.evaluators.relaxed import RelaxedEvaluator
from nas.spaces import Architecture, SearchSpace, plain_space
from nas.spaces.sgnas import path_of
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.training.criterion import criterion_of
from nas.training.distributed import ALONE, Workers
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU, TorchDevice
from nas.training.unified_training import (
    UnifiedRecipe,
    answer,
    divide,
    train_unified,
)


class UnifiedEvaluator(RelaxedEvaluator[UnifiedSupernet]):
    """A trained unified supernet."""

    @cached_property
    def mixture(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Supernet that mixes choices.

        A CPU skips choices of small probability; a GPU computes them to avoid waiting.
        """
        return self.supernet.frozen() if self.torch_device.is_gpu else self.supernet

    def network(self, architecture: Architecture) -> NetworkModule:
        return answer(self.supernet, path_of(architecture), self.data, self.parts, self.recipe)

    def outputs(self, images: Tensor, probabilities: Tensor) -> Tensor:
        return self.mixture(images, probabilities)


def trained_unified(
    folder: RunFolder,
    space: SearchSpace,
    data: ImageData,
    recipe: UnifiedRecipe,
    *,
    seed: int,
    torch_device: TorchDevice = CPU,
    workers: Workers = ALONE,
    progress: Progress = silent,
) -> UnifiedEvaluator:
    """Train the supernet of a run, or load it from the run's folder; return it as an evaluator."""
    parts = divide(data, recipe, seed=seed)
    criterion = criterion_of(data, space.classes, recipe, seed=seed, default="scratch")
    supernet = train_unified(
        plain_space(space),
        data,
        parts,
        recipe,
        folder,
        seed=seed,
        criterion=criterion,
        torch_device=torch_device,
        workers=workers,
        progress=progress,
    )
    return UnifiedEvaluator(
        supernet,
        data,
        parts,
        recipe,
        criterion=criterion,
        torch_device=torch_device,
        workers=workers,
    )
