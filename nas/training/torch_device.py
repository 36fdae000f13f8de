"""Where a search or a training computes: its torch device, precision and memory format.

One ``TorchDevice`` is made at the border, from a name such as ``cuda:1``, and is handed down. It
places modules and batches, and opens autocast. Code below it never names a device: it makes tensors
where the tensors that it is given lie.

Draws that choose paths, orders and crops stay on the CPU, so that one seed chooses the same paths
on every device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn

from latbench.errors import InvalidValueError

Precision = Literal["fp32", "bf16", "fp16"]

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TorchDevice:
    """A torch device, and how is computed on it.

    Attributes:
        device: Where modules and batches lie.
        precision: Type of products and convolutions. Below ``fp32`` they compute under autocast;
            weights, norms and sums stay in single precision.
        memory_format: Layout of images and of the weights of convolutions.
    """

    device: torch.device
    precision: Precision = "fp32"
    memory_format: torch.memory_format = torch.channels_last

    @property
    def is_gpu(self) -> bool:
        """Whether work is queued there while the processor goes on."""
        return self.device.type != "cpu"

    def place(self, module: M) -> M:
        """The module, moved to the device in this memory format; changed in place."""
        return module.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> torch.autocast:
        """Autocast to the precision; does nothing in ``fp32``."""
        enabled = self.precision != "fp32"
        dtype = _TYPES[self.precision] if enabled else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=enabled)

    def scaler(self) -> torch.amp.GradScaler:
        """Scaler of the loss, which keeps small gradients of ``fp16``; inactive otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")


CPU = TorchDevice(torch.device("cpu"))


def find_torch_device(name: str = "auto", *, precision: Precision = "fp32") -> TorchDevice:
    """The device of a name.

    Args:
        name: ``auto`` (the GPU where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or
            ``mps``. Without a number, ``cuda`` is the GPU of this process's local rank under
            ``torchrun``, and the first one otherwise.
        precision: Of products and convolutions.

    Raises:
        InvalidValueError: No such device, or it is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _refused(f"there is no torch device {name!r}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise _refused(f"no training runs on torch device {name!r}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise _refused("this machine has no Apple GPU that PyTorch can use")
    if device.type == "cuda":
        device = _gpu(device)
    return TorchDevice(device, precision)


def _gpu(device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise _refused(f"PyTorch {torch.__version__} finds no CUDA GPU here")
    index = device.index
    if index is None:
        index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        raise _refused(f"there is no GPU {index}: PyTorch finds {count}, numbered from 0")
    return torch.device("cuda", index)


def _refused(what: str) -> InvalidValueError:
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    choices = ("auto", "cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else []))
    return InvalidValueError(f"{what}: choose one of {', '.join(choices)}", choices=choices)
