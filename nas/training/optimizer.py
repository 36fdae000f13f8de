"""SGD that touches only the channels in use, RMSprop as TensorFlow has it, the cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def cosine(peak: float, progress: float) -> float:
    """A learning rate that falls from its peak to zero along half a cosine.

    Args:
        peak: The rate at the start.
        progress: Fraction of all steps that are done.
    """
    return peak * (1 + math.cos(math.pi * progress)) / 2


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give all parameters one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


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
        self._selections: Mapping[nn.Parameter, tuple[int, int]] = {}

    def select(self, selections: Mapping[nn.Parameter, tuple[int, int]]) -> None:
        """Say which slices are in use: axis and how many of the first; others are whole."""
        self._selections = selections

    @torch.no_grad()
    def move(self, orders: Mapping[nn.Parameter, tuple[int, Tensor]]) -> None:
        """Let velocities follow slices of their parameters that were moved.

        Args:
            orders: By parameter, the axis and where each slice came from.
        """
        for parameter, (axis, order) in orders.items():
            velocity = self.state.get(parameter, {}).get("momentum_buffer")
            if velocity is not None:
                velocity.copy_(velocity.index_select(axis, order))

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
                values, grad, velocity = parameter, parameter.grad, state["momentum_buffer"]
                if parameter in self._selections:
                    axis, width = self._selections[parameter]
                    values, grad, velocity = (
                        tensor.narrow(axis, 0, width) for tensor in (values, grad, velocity)
                    )
                velocity.mul_(momentum).add_(grad).add_(values, alpha=decay)
                values.add_(velocity, alpha=-lr)


class TensorFlowRMSprop(Optimizer):
    """RMSprop as in TensorFlow, which EfficientNet, MobileNetV3 and SGNAS were trained with.

    With gradient g, weight decay d and learning rate r::

        g <- g + d w
        s <- alpha s + (1 - alpha) g^2        from s = 1
        v <- momentum v + r g / sqrt(s + epsilon)
        w <- w - v

    ``torch.optim.RMSprop`` adds epsilon outside the root, starts from s = 0, and has the learning
    rate of now multiply what earlier steps left in v; with a large epsilon and a learning rate
    that falls these are other trainings.

    Args:
        parameters: What to optimise.
        lr: Learning rate.
        alpha: Of the running mean of squared gradients.
        momentum: Of the velocity.
        epsilon: Under the root.
        weight_decay: L2 penalty.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        alpha: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "momentum": momentum,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step on every parameter that has a gradient."""
        for group in self.param_groups:
            alpha = group["alpha"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["square"] = torch.ones_like(parameter)
                    state["velocity"] = torch.zeros_like(parameter)
                grad = parameter.grad.add(parameter, alpha=group["weight_decay"])
                square = state["square"].mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
                root = square.add(group["epsilon"]).sqrt_()
                velocity = state["velocity"].mul_(group["momentum"])
                velocity.addcdiv_(grad, root, value=group["lr"])
                parameter.sub_(velocity)
