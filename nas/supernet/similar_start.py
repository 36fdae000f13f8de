"""Initial weights with which the operations of a layer compute nearly the same function.

With independent weights every path of a supernet is another random function, and a step that
improves one path hardly helps the others: in a short training no path learns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks.graph import INPUT, Add
from latbench.render.torch import GraphModule
from nas.supernet.elastic import ElasticInvertedResidual

_EXCITE = "se_"  # the names of squeeze-excite's convolutions begin so
_GATE = "se_expand"


@torch.no_grad()
def start_alike(operations: Sequence[nn.Module], correlation: float) -> None:
    """Correlate the new weights of a layer's operations, and start shortcuts as the identity.

    Operations with the same convolutions have a model: the one of the smallest kernel with the
    fewest channels in use. The others repeat its channels, and larger kernels have zeros around its
    kernel. Gates of squeeze-excite start as nearly constant. So at correlation 1 they compute the
    same as their model in training, if their widths are multiples of its width. Operations with
    other convolutions, such as those without an expansion, have a model of their own.

    What is added to an operation's input starts at zero, if a norm with a scale comes last.

    Args:
        operations: New operations of a layer, at the widths of the start.
        correlation: Correlation of a weight with that of its model, 0 to 1.
    """
    families = defaultdict(list)
    for operation in operations:
        families[_structure(operation)].append(operation)
        _start_as_identity(operation)
    for family in families.values():
        model = min(family, key=_size)
        weights = _in_use(model)
        for operation in family:
            for name, convolution in _convolutions(operation).items():
                weight = convolution.weight
                if name == _GATE:
                    correlate(weight, torch.zeros_like(weight), correlation)
                elif operation is not model and name in weights:
                    correlate(weight, _as_large_as(weight, weights[name]), correlation)


def correlate(weight: Tensor, model: Tensor, correlation: float) -> None:
    """Mix independent weights with those of a model, in place; the spread stays the same."""
    weight.mul_(math.sqrt(1 - correlation**2)).add_(model, alpha=correlation)


def _convolutions(operation: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: m for name, m in operation.named_modules() if isinstance(m, nn.Conv2d)}


def _structure(operation: nn.Module) -> frozenset[tuple[str, int]]:
    """Names and groups of the convolutions, without squeeze-excite; 0 groups are depthwise."""
    return frozenset(
        (name, 0 if conv.groups == conv.in_channels else conv.groups)
        for name, conv in _convolutions(operation).items()
        if not name.startswith(_EXCITE)
    )


def _in_use(operation: nn.Module) -> dict[str, Tensor]:
    """Weights of the convolutions; of elastic width, those of the channels in use."""
    found = {name: conv.weight for name, conv in _convolutions(operation).items()}
    if isinstance(operation, ElasticInvertedResidual):
        sliced = operation.slice_parameters()
        return {name: sliced[f"{name}.weight"] for name in found}
    return found


def _size(operation: nn.Module) -> tuple[int, int]:
    """Largest kernel and number of weights in use, to compare."""
    weights = _in_use(operation).values()
    return max((w.shape[2] for w in weights), default=0), sum(w.numel() for w in weights)


def _as_large_as(weight: Tensor, model: Tensor) -> Tensor:
    """The model, repeated and padded to the shape of a weight, and scaled to its norm."""
    for axis in (0, 1):
        places = torch.arange(weight.shape[axis], device=model.device) % model.shape[axis]
        model = model.index_select(axis, places)
    more = weight.shape[2] - model.shape[2]
    model = F.pad(model, [more // 2, more - more // 2] * 2)
    scaled: Tensor = model * (weight.norm() / model.norm())
    return scaled


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
