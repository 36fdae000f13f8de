"""Batch-norm calibration: running statistics of one network's own activations.

Weights that come out of a supernet bring statistics that many paths have mixed; a few batches of
training images give the network those it would have gathered itself.
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
        model: Its batch norms keep running statistics; its weights stay as they are.
        inputs: Batches ``(N, 3, S, S)``, at least one.

    Raises:
        ValueError: There is no batch, and statistics would be lost.
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
