"""Support for functions with hand-written gradients under autocast.

Autocast casts the inputs of a convolution, and autograd casts gradients back. Inside a
``torch.autograd.Function`` gradients are not cast back, and some processors refuse convolutions of
two types. So these functions get tensors of one type, by casts that autograd records, and compute
with autocast off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_one_type(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, cast to the type in which a convolution of them computes.

    The type is autocast's where autocast is on, else the widest type of the tensors. Double
    precision is not cast, as in torch's autocast.
    """
    device_type = tensors[0].device.type
    wanted = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if wanted != torch.double and torch.is_autocast_enabled(device_type):
        wanted = torch.get_autocast_dtype(device_type)
    return tuple(tensor.to(wanted) for tensor in tensors)


def computed_in(x: Tensor) -> torch.dtype:
    """The type in which a convolution of a tensor with single-precision weights computes."""
    wanted = torch.promote_types(x.dtype, torch.float)
    if wanted != torch.double and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return wanted


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator for a forward or backward pass: computes it in the types of its arguments."""

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device for value in args if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return computed
