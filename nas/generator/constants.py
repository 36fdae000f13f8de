"""Constant tensors where they are needed."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor that never changes, copied once to every device and type that ask for it.

    A copy in every step would make the processor wait for a GPU.

    Args:
        value: The tensor, on the CPU.
    """

    def __init__(self, value: Tensor) -> None:
        self._value = value
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def to(self, like: Tensor) -> Tensor:
        """The constant where another tensor lies, in its type."""
        return self.at(like.device, like.dtype)

    def at(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """The constant on a device, in its own type if none is named."""
        key = device, dtype or self._value.dtype
        if key not in self._copies:
            self._copies[key] = self._value.to(*key)
        return self._copies[key]
