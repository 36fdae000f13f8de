"""Batch-norm calibration: running statistics recomputed from one network's own activations.

A network cut out of a supernet has running statistics that mix many paths. A few batches of
training images replace them by the statistics of the network itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn


@torch.no_grad()
def calibrate(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Replace all running statistics by the mean over batches; leave the model in eval mode.

    Args:
        model: A network whose batch norms keep running statistics; its weights are not changed.
        inputs: At least one batch ``(N, 3, S, S)``.

    Raises:
        ValueError: There is no batch, so the statistics would be lost.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    batches = iter(inputs)
    first = next(batches, None)
    if first is None:
        raise ValueError("no batch to calibrate on")
    for norm in norms:
        norm.reset_running_stats()
    model.train()
    for number, batch in enumerate(chain([first], batches), start=1):
        for norm in norms:
            norm.momentum = 1 / number  # the mean over batches; None would read a counter back
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
