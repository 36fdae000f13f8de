"""Dropout of features, and stochastic depth for blocks with a shortcut.

Both are hooks on a rendered network. They do not change its parameters, their names or its
behaviour in evaluation mode. Draws come from torch's own generator.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks.graph import INPUT, Add
from latbench.render.torch import GraphModule, NetworkModule


def add_dropout(model: NetworkModule, rate: float) -> None:
    """Zero features before the linear layer of the classifier with probability ``rate``."""

    def drop(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (F.dropout(inputs[0], rate, training=module.training),)

    if rate:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(drop)


def add_drop_connect(model: NetworkModule, rate: float) -> None:
    """Skip the branch beside a shortcut for some images (stochastic depth, Huang et al. 2016).

    The probability grows linearly with the number of the block, from 0 at the first convolution
    to ``rate`` at the last block with a shortcut, nearly as in EfficientNet and TF-NAS.
    """
    blocks = [block for block in model.blocks if isinstance(block, GraphModule)]
    shortcuts = [
        (number, block.get_submodule(node.name), node.inputs.index(INPUT))
        for number, block in enumerate(blocks)
        for node in block.graph.nodes
        if isinstance(node.layer, Add) and INPUT in node.inputs
    ]
    if not rate or not shortcuts:
        return
    last = shortcuts[-1][0]
    for number, add, shortcut in shortcuts:
        add.register_forward_pre_hook(_dropper(rate * number / max(1, last), 1 - shortcut))


def _dropper(rate: float, branch: int) -> Any:
    def drop(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not module.training or not rate:
            return None
        changed = list(inputs)
        changed[branch] = drop_images(inputs[branch], rate)
        return tuple(changed)

    return drop


def drop_images(x: Tensor, rate: float) -> Tensor:
    """``(N, C, H, W)`` with whole images set to zero; the others are scaled to keep the mean."""
    kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - rate)
    return x * kept / (1 - rate)
