"""SGD that touches only the channels in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class ElasticSGD(Optimizer):
    """SGD with momentum and weight decay, on the selected slices of elastic parameters.

    Channels that are not in use get no gradient step, and no weight decay or momentum either:
    they wait as they are until they are in use again. Parameters without a gradient, such as
    those of operations that were not sampled, wait likewise. On parameters that are wholly in
    use this is ``torch.optim.SGD``.

    Args:
        parameters: What to optimise.
        lr: Learning rate.
        momentum: Of the velocity.
        weight_decay: L2 penalty.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self._selections: Mapping[nn.Parameter, tuple[int, Tensor]] = {}

    def select(self, selections: Mapping[nn.Parameter, tuple[int, Tensor]]) -> None:
        """Say which slices are in use: axis and indices by parameter; others are whole."""
        self._selections = selections

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step on every parameter that has a gradient."""
        for group in self.param_groups:
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                velocity = state["momentum_buffer"]
                selection = self._selections.get(parameter)
                if selection is None:
                    step = parameter.grad.add(parameter, alpha=decay)
                    velocity.mul_(momentum).add_(step)
                    parameter.add_(velocity, alpha=-lr)
                    continue
                axis, index = selection
                values = parameter.index_select(axis, index)
                step = parameter.grad.index_select(axis, index).add_(values, alpha=decay)
                moved = velocity.index_select(axis, index).mul_(momentum).add_(step)
                velocity.index_copy_(axis, index, moved)
                parameter.index_copy_(axis, index, values.sub_(moved, alpha=lr))
