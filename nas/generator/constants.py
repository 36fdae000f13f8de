"""Constant tensors, with one copy on every device that needs them."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor that never changes, copied only once to each device and type.

    With a copy in every step the CPU would wait for the GPU each time.

    Args:
        value: The tensor, on the CPU.
    """

    def __init__(self, value: Tensor) -> None:
        self._value = value
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def to(self, like: Tensor) -> Tensor:
        """The constant on the device and in the type of another tensor."""
        return self.at(like.device, like.dtype)

    def at(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """The constant on a device, in its own type if ``dtype`` is None."""
        key = device, dtype or self._value.dtype
        if key not in self._copies:
            self._copies[key] = self._value.to(*key)
        return self._copies[key]
