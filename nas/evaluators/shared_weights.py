"""Fitness of a network with a supernet's weights, after its norms were calibrated."""

from __future__ import annotations

from itertools import islice

import torch
from torch import nn

from latbench.render.torch import NetworkModule
from nas.data.images import ImageData, Source, batches, generator
from nas.evaluators.base import Evaluator
from nas.spaces import Architecture
from nas.spaces.sgnas import path_of
from nas.supernet.mixed_operations import Supernet
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.tasks import task_of
from nas.training.calibration import calibrate

CALIBRATION_BATCHES = 8


class SupernetEvaluator(Evaluator):
    """Cuts the network out of the supernet, calibrates its norms, and evaluates it.

    The score is the fitness of the data's task: accuracy for classification. Without calibration,
    running statistics mixed from many paths would rank architectures at random (Guo et al., ECCV
    2020, Section 3.2).

    It computes on the supernet's device.

    Args:
        supernet: Trained supernet, of separate operations or unified.
        data: Data set of the images.
        criterion: Loss that the supernet was trained with.
        calibration: Training images that calibrate the norms.
        selection: Images that give the score; not used for training or calibration.
        batch_size: Batch size of the calibration.
    """

    def __init__(
        self,
        supernet: Supernet | UnifiedSupernet,
        data: ImageData,
        *,
        criterion: nn.Module,
        calibration: Source,
        selection: Source,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        self.supernet = supernet
        self.data = data
        self.task = task_of(data, next(supernet.parameters()).device)
        self.criterion = criterion
        shuffled = batches(calibration.plain(), batch_size, generator(0))
        shown = self.task.inputs(islice(shuffled, CALIBRATION_BATCHES))
        self.inputs = [images for images, _ in shown]
        self.selection = selection

    def _score(self, architecture: Architecture) -> float:
        return self.evaluate(network_of(self.supernet, architecture))

    @torch.no_grad()
    def evaluate(self, model: NetworkModule) -> float:
        """Calibrate the norms of a network cut out of the supernet, and return its fitness."""
        calibrate(model, self.inputs)
        self.criterion.eval()
        return self.task.mean_fitness(model.for_evaluation(), self.selection, self.criterion)


def network_of(supernet: Supernet | UnifiedSupernet, architecture: Architecture) -> NetworkModule:
    """The network of an architecture, with copies of a supernet's weights."""
    if isinstance(supernet, UnifiedSupernet):
        return supernet.cut(path_of(architecture))
    return supernet.cut(architecture)
