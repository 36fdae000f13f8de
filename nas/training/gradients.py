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
        fits = _lie_alike(part, parameter)  # the gradient may be a view of a larger one
        grad = part if fits else torch.empty_like(parameter).copy_(part)
        if parameter.grad is None:
            parameter.grad = grad
        else:
            totals.append(parameter.grad)
            added.append(grad)
    for dtype in {total.dtype for total in totals}:  # one call for mixed types is one a tensor
        alike = [number for number, total in enumerate(totals) if total.dtype == dtype]
        torch._foreach_add_([totals[i] for i in alike], [added[i] for i in alike])


def _lie_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have the same memory layout."""
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(mine == theirs for size, mine, theirs in strides if size > 1)
