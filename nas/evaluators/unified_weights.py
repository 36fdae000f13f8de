"""A trained unified supernet, as an evaluator of networks and of generators."""

from __future__ import annotations

from torch import Tensor, nn

from latbench.progress import Progress, silent
from nas.data.images import ImageData
from nas.evaluators.relaxed import RelaxedJudge
from nas.spaces import Architecture, SearchSpace, plain_space
from nas.supernet.unified_blocks import UnifiedSupernet, path_of
from nas.training.distributed import ALONE, Workers
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU, TorchDevice
from nas.training.unified_training import (
    Parts,
    UnifiedRecipe,
    answer,
    divide,
    train_unified,
    unified_criterion,
)


class Judge(RelaxedJudge):
    """A trained unified supernet; takes the arguments of ``RelaxedJudge``."""

    def __init__(
        self,
        supernet: UnifiedSupernet,
        data: ImageData,
        parts: Parts,
        recipe: UnifiedRecipe,
        *,
        criterion: nn.Module,
        torch_device: TorchDevice = CPU,
        workers: Workers = ALONE,
    ) -> None:
        super().__init__(
            supernet,
            data,
            parts,
            recipe,
            criterion=criterion,
            torch_device=torch_device,
            workers=workers,
        )
        self.supernet = supernet
        # a CPU skips choices of small probability; a GPU computes them to avoid waiting
        self.mixture = supernet.frozen() if torch_device.is_gpu else supernet

    def network(self, architecture: Architecture) -> nn.Module:
        return answer(self.supernet, path_of(architecture), self.data, self.parts, self.recipe)

    def outputs(self, images: Tensor, probabilities: Tensor) -> Tensor:
        found: Tensor = self.mixture(images, probabilities)
        return found


def trained_judge(
    folder: RunFolder,
    space: SearchSpace,
    data: ImageData,
    recipe: UnifiedRecipe,
    *,
    seed: int,
    torch_device: TorchDevice = CPU,
    workers: Workers = ALONE,
    progress: Progress = silent,
) -> Judge:
    """Train the supernet of a run, or load it from the run's folder; return it as an evaluator."""
    parts = divide(data, recipe, seed=seed)
    criterion = unified_criterion(data, space.classes, recipe, seed=seed)
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
    return Judge(
        supernet,
        data,
        parts,
        recipe,
        criterion=criterion,
        torch_device=torch_device,
        workers=workers,
    )
