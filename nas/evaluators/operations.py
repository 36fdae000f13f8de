"""A trained supernet of separate operations, as an evaluator of networks and of generators."""

from __future__ import annotations

import torch
from torch import Tensor

from latbench.progress import Progress, silent
from latbench.render.torch import NetworkModule
from nas.data.images import ImageData
from nas.evaluators.relaxed import RelaxedEvaluator
from nas.spaces import Architecture, SearchSpace
from nas.supernet.mixed_operations import Supernet, fixed_supernet
from nas.supernet.unified_mixture import THRESHOLD
from nas.training.calibration import calibrate
from nas.training.criterion import criterion_of
from nas.training.distributed import ALONE, Workers
from nas.training.run_folder import RunFolder
from nas.training.strategies import make_strategy
from nas.training.strategies.base import relaxed_of
from nas.training.supernet_training import SupernetRecipe, train_supernet
from nas.training.torch_device import CPU, TorchDevice
from nas.training.unified_training import (
    UnifiedRecipe,
    calibration_inputs,
    device_of,
    divide,
)


class OperationsEvaluator(RelaxedEvaluator[Supernet]):
    """A trained supernet of separate operations."""

    def network(self, architecture: Architecture) -> NetworkModule:
        network = self.supernet.cut(architecture)
        there = device_of(network)
        calibrate(network, calibration_inputs(self.data, self.parts, self.recipe, there))
        return network

    def outputs(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """Outputs as in ``RelaxedEvaluator``.

        As in the unified supernet, operations with a probability of at most ``THRESHOLD`` are not
        computed. On a GPU they are computed and count as 0, because reading probabilities would
        make the GPU wait.
        """
        flat = probabilities.squeeze(-2)
        if flat.device.type == "cpu":
            rows = [
                {op: p for op, p in enumerate(row.unbind()) if float(p.detach()) > THRESHOLD}
                for row in flat
            ]
        else:
            weights = torch.where(flat > THRESHOLD, flat, torch.zeros_like(flat))
            rows = [
                dict(enumerate(row.unbind()[: len(layer.ops)]))
                for row, layer in zip(weights, self.supernet.space.layers, strict=True)
            ]
        depths = [{len(stage): 1.0} for stage in self.supernet.space.stages]
        found: Tensor = self.supernet(images, relaxed_of(self.supernet.space, rows, depths))
        return found


def trained_operations(
    folder: RunFolder,
    space: SearchSpace,
    data: ImageData,
    recipe: UnifiedRecipe,
    *,
    strategy: str,
    seed: int,
    torch_device: TorchDevice = CPU,
    workers: Workers = ALONE,
    progress: Progress = silent,
) -> OperationsEvaluator:
    """Train the supernet of a run, or load it from the run's folder; return it as an evaluator.

    Args:
        folder: Folder for checkpoints and metrics; a run there is resumed.
        space: Space of separate operations without elastic widths.
        data: Data set of the images.
        recipe: Constants of the division of images and of the training.
        strategy: Name of the strategy that draws training paths, one of ``STRATEGIES``.
        seed: Seed of weights, paths, order and augmentation.
        torch_device: Device of training and evaluation.
        workers: The processes that train and evaluate together.
        progress: Callback with the fraction done and a short description.
    """
    parts = divide(data, recipe, seed=seed)
    criterion = criterion_of(data, space.classes, recipe, seed=seed, default="scratch")
    supernet = fixed_supernet(space, seed=seed, alike=recipe.alike)
    train_supernet(
        supernet,
        make_strategy(strategy, space),
        data,
        _supernet_recipe(recipe),
        folder,
        seed=seed,
        criterion=criterion,
        parts=(parts.weights, parts.generator),
        workers=workers,
        torch_device=torch_device,
        progress=progress,
    )
    return OperationsEvaluator(
        supernet,
        data,
        parts,
        recipe,
        criterion=criterion,
        torch_device=torch_device,
        workers=workers,
    )


def _supernet_recipe(recipe: UnifiedRecipe) -> SupernetRecipe:
    """The same constants as a supernet recipe."""
    return SupernetRecipe(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        shift=recipe.shift,
        per_class=recipe.per_class,
        precision=recipe.precision,
    )
