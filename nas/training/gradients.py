"""Sums of the gradients of several losses."""

from __future__ import annotations

import torch
from torch import Tensor


def add_gradients(loss: Tensor, parameters: list[Tensor]) -> None:
    """Add the gradients of a loss to those of the parameters, as ``backward`` does.

    On a GPU this takes few calls; ``backward`` makes one for every parameter.
    """
    if loss.device.type == "cpu":
        loss.backward()  # type: ignore[no-untyped-call]
        return
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    totals: list[Tensor] = []
    added: list[Tensor] = []
    for parameter, part in zip(parameters, found, strict=True):
        if part is None:
            continue
        alike = _lie_alike(part, parameter)  # the gradient may be a view of a larger one
        grad = part if alike else torch.empty_like(parameter).copy_(part)
        if parameter.grad is None:
            parameter.grad = grad
        else:
            totals.append(parameter.grad)
            added.append(grad)
    if totals:
        torch._foreach_add_(totals, added)


def _lie_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have the same memory layout."""
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(mine == theirs for size, mine, theirs in strides if size > 1)
