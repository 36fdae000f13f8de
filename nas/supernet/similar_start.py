"""Initial weights with which the operations of a layer compute nearly the same function.

With independent weights every path of a supernet is another random function, and a step that
improves one path hardly helps the others: in a short training no path learns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks.graph import INPUT, Add
from latbench.render.torch import GraphModule
from nas.supernet.elastic import ElasticInvertedResidual

_GATE = "se_expand.weight"


@torch.no_grad()
def start_alike(operations: Sequence[nn.Module], correlation: float) -> None:
    """Correlate the new weights of a layer's operations.

    The model of all convolutions of one name is the one of the smallest kernel with the fewest
    channels in use. Others repeat its channels, and a larger kernel has zeros around it. Gates of
    squeeze-excite start as nearly constant. At correlation 1 two operations compute the same in
    training if they differ in kernel, squeeze-excite or by an integer factor of width. Where the
    norm before a shortcut has a scale, it starts at zero, so the operation starts as the identity.

    Args:
        operations: New operations of a layer.
        correlation: Correlation of a weight with that of its model, 0 to 1.
    """
    models: dict[str, tuple[nn.Module, Tensor]] = {}
    for operation in operations:
        for name, weight in _in_use(operation).items():
            if name not in models or _size(weight) < _size(models[name][1]):
                models[name] = operation, weight
    for operation in operations:
        for name, weight in _convolutions(operation).items():
            owner, model = models[name]
            if name == _GATE:
                correlate(weight, torch.zeros_like(weight), correlation)
            elif owner is not operation:
                model = _as_large_as(weight, model)
                correlate(weight, model * (weight.norm() / model.norm()), correlation)
        _start_as_identity(operation)


def correlate(weight: Tensor, model: Tensor, correlation: float) -> None:
    """Mix independent weights with those of a model, in place; the spread stays the same."""
    weight.mul_(math.sqrt(1 - correlation**2)).add_(model, alpha=correlation)


def _start_as_identity(operation: nn.Module) -> None:
    """Scale what is added to the operation's input by zero, if a norm with a scale comes last."""
    if not isinstance(operation, GraphModule) or not operation.graph.nodes:
        return
    last = operation.graph.nodes[-1]
    if isinstance(last.layer, Add) and INPUT in last.inputs:
        for name in last.inputs:
            norm = operation.get_submodule(name) if name != INPUT else None
            if isinstance(norm, nn.BatchNorm2d) and norm.affine:
                nn.init.zeros_(norm.weight)


def _convolutions(operation: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in operation.named_parameters() if p.ndim == 4}


def _in_use(operation: nn.Module) -> dict[str, Tensor]:
    """Weights of the convolutions; of elastic width, those of the channels in use."""
    if isinstance(operation, ElasticInvertedResidual):
        return {name: w for name, w in operation.slice_parameters().items() if w.ndim == 4}
    return _convolutions(operation)


def _size(weight: Tensor) -> tuple[int, int]:
    """Kernel and channels, to compare."""
    return weight.shape[2], weight.numel()


def _as_large_as(weight: Tensor, model: Tensor) -> Tensor:
    """A copy of the model, repeated and padded to the shape of a weight."""
    for axis in (0, 1):
        places = torch.arange(weight.shape[axis], device=model.device) % model.shape[axis]
        model = model.index_select(axis, places)
    return F.pad(model, [(weight.shape[2] - model.shape[2]) // 2] * 4)
