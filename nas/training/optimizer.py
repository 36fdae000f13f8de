"""SGD that updates only the channels in use, RMSprop as in TensorFlow, the cosine schedule."""

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
        progress: Fraction of all steps that is done.
    """
    return peak * (1 + math.cos(math.pi * progress)) / 2


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set one learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def start_velocities(sgd: torch.optim.SGD) -> None:
    """Give every parameter a velocity, which a fused update needs from the start."""
    for group in sgd.param_groups:
        if group["momentum"]:
            for parameter in group["params"]:
                if sgd.state[parameter].get("momentum_buffer") is None:
                    sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class ElasticSGD(Optimizer):
    """SGD with momentum and weight decay, on the selected slices of elastic parameters.

    Channels that are not in use get no gradient step, no weight decay and no momentum: they do not
    change until they are in use again. Parameters without a gradient, such as those of operations
    that were not sampled, do not change either. For parameters that are wholly in use this equals
    ``torch.optim.SGD``.

    Args:
        parameters: Parameters to optimise.
        lr: Learning rate.
        momentum: Momentum of the velocity.
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
        """Set the slices in use (axis, number of first slices); others are in use whole."""
        self._selections = selections

    @torch.no_grad()
    def move(self, orders: Mapping[nn.Parameter, tuple[int, Tensor]]) -> None:
        """Move the velocities in the same way as slices of their parameters.

        Args:
            orders: Axis, and the previous position of each slice, by parameter.
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
            in_use = self._in_use(group["params"])
            if not in_use:
                continue
            if in_use[0][0].device.type == "cpu":
                for value, grad, velocity in in_use:
                    velocity.mul_(momentum).add_(grad).add_(value, alpha=decay)
                    value.add_(velocity, alpha=-lr)
                continue
            for has_gaps in (False, True):  # one tensor with gaps makes a call a loop over all
                alike = [each for each in in_use if _has_gaps(each[0]) == has_gaps]
                if not alike:
                    continue
                values, grads, velocities = map(list, zip(*alike, strict=True))
                torch._foreach_mul_(velocities, momentum)
                torch._foreach_add_(velocities, grads)
                torch._foreach_add_(velocities, values, alpha=decay)
                torch._foreach_add_(values, velocities, alpha=-lr)

    def _in_use(self, parameters: Iterable[nn.Parameter]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Parameters that have gradients, the gradients and the velocities: the slices in use."""
        found = []
        value: Tensor
        for parameter in parameters:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            value, grad, velocity = parameter, parameter.grad, state["momentum_buffer"]
            if parameter in self._selections:
                axis, width = self._selections[parameter]
                value, grad, velocity = (x.narrow(axis, 0, width) for x in (value, grad, velocity))
            found.append((value, grad, velocity))
        return found


def _has_gaps(tensor: Tensor) -> bool:
    """Whether the elements of a tensor do not fill the part of memory that they lie in."""
    spans = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in spans) > tensor.numel()


class TensorFlowRMSprop(Optimizer):
    """RMSprop as in TensorFlow; EfficientNet, MobileNetV3 and SGNAS were trained with it.

    With gradient g, weight decay d and learning rate r::

        g <- g + d w
        s <- alpha s + (1 - alpha) g^2        from s = 1
        v <- momentum v + r g / sqrt(s + epsilon)
        w <- w - v

    ``torch.optim.RMSprop`` adds epsilon outside the root, starts from s = 0, and multiplies the
    whole of v by the current learning rate. With a large epsilon and a falling learning rate, the
    results differ.

    Args:
        parameters: Parameters to optimise.
        lr: Learning rate.
        alpha: Decay of the running mean of squared gradients.
        momentum: Momentum of the velocity.
        epsilon: Constant under the root.
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
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["square"] = torch.ones_like(parameter)
                    state["velocity"] = torch.zeros_like(parameter)
            if parameters and parameters[0].device.type != "cpu":
                self._step_together(parameters, group)
                continue
            for parameter in parameters:
                state = self.state[parameter]
                grad = parameter.grad.add(parameter, alpha=group["weight_decay"])
                square = state["square"].mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
                root = square.add(group["epsilon"]).sqrt_()
                velocity = state["velocity"].mul_(group["momentum"])
                velocity.addcdiv_(grad, root, value=group["lr"])
                parameter.sub_(velocity)

    def _step_together(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The same in few calls, each for all parameters, which is faster on a GPU."""
        states = [self.state[parameter] for parameter in parameters]
        squares = [state["square"] for state in states]
        velocities = [state["velocity"] for state in states]
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        grads = list(torch._foreach_add(grads, parameters, alpha=group["weight_decay"]))
        torch._foreach_mul_(squares, group["alpha"])
        torch._foreach_addcmul_(squares, grads, grads, value=1 - group["alpha"])
        roots = torch._foreach_add(squares, group["epsilon"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_addcdiv_(velocities, grads, roots, value=group["lr"])
        torch._foreach_sub_(parameters, velocities)
