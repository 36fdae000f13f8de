"""Data parallel training: equal processes, started by ``torchrun``, that average gradients.

Every process holds the whole model, draws the same batches and paths from the same seeds, and
computes on its part of each batch. Gradients are summed in one piece, whichever parameters have
any: with paths drawn from a shared seed these are the same everywhere. One process alone is the
same code without a group.

The group is NCCL where the torch device is a CUDA GPU, and gloo otherwise; tensors that lie
elsewhere are brought to the device to be added up. All processes compute on one kind of device.
Batch norm takes the statistics of each process's share, and running statistics are averaged after
an epoch. Process 0 alone writes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from latbench.errors import InvalidValueError
from nas.training.torch_device import CPU, TorchDevice

LEAST_IMAGES = 2  # in the batch of a process: batch norm has no variance of one value


@dataclass(frozen=True)
class Workers:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: Number of this process, from 0.
        count: How many there are.
        device: Where the group adds up.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = CPU.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and draws the progress bar."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Which part of a batch this process computes.

        Raises:
            InvalidValueError: The batch does not divide evenly: means would not be the batch's. Or
                a process would have a single image: batch norm has no variance of one value.
        """
        if batch_size % self.count:
            raise InvalidValueError(
                f"a batch of {batch_size} does not divide among {self.count} processes: "
                f"choose a multiple of {self.count}"
            )
        part = batch_size // self.count
        if part < LEAST_IMAGES:
            whose = f" for each of {self.count} processes" if self.count > 1 else ""
            raise InvalidValueError(
                f"a batch of {batch_size} leaves one image{whose}, and batch norm needs "
                f"{LEAST_IMAGES}: give images and a batch size of {LEAST_IMAGES * self.count} or "
                "more"
            )
        return slice(self.rank * part, (self.rank + 1) * part)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        self._average([p.grad for p in parameters if p.grad is not None])

    def average_buffers(self, model: nn.Module) -> None:
        """Replace running statistics by their mean over the processes."""
        self._average([buffer for buffer in model.buffers() if buffer.is_floating_point()])

    def sum(self, values: Sequence[float]) -> list[float]:
        """Numbers such as losses and counts, added up over the processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64).to(self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.cpu()]

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            gpu = self.device.type == "cuda"
            dist.barrier(device_ids=[self.device.index] if gpu else None)

    @torch.no_grad()
    def _average(self, tensors: list[Tensor]) -> None:
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(self.device)
        dist.all_reduce(flat)
        flat /= self.count
        flat = flat.to(tensors[0].device)  # in one piece
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        means = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(tensors, means)


ALONE = Workers()


@contextmanager
def workers(torch_device: TorchDevice = CPU) -> Iterator[Workers]:
    """The group that ``torchrun`` started this process in; alone without it.

    Args:
        torch_device: Where this process computes.

    Raises:
        InvalidValueError: The processes have devices of different kinds, or of a kind that cannot
            work together.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    device = torch_device.device
    if device.type not in ("cpu", "cuda"):
        raise InvalidValueError(
            f"several processes train on CPUs or on CUDA GPUs, not on {device}: choose another "
            "--torch-device, or start without torchrun"
        )
    store, rank, count = next(rendezvous("env://"))
    _require_one_kind(store, rank, count, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=count
    )
    try:
        yield Workers(rank, count, device)
    finally:
        dist.destroy_process_group()


class _Store(Protocol):
    """Where processes tell each other of themselves before they are a group."""

    def set(self, key: str, value: str, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...


def _require_one_kind(store: _Store, rank: int, count: int, device: torch.device) -> None:
    """Refuse to train on devices of different kinds: the slower ones would hold up the others.

    Raises:
        InvalidValueError: In every process, with the kinds that there are.
    """
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    store.set(f"latbench/kind/{rank}", kind)
    kinds = sorted({store.get(f"latbench/kind/{other}").decode() for other in range(count)})
    if len(kinds) > 1:
        raise InvalidValueError(
            f"the processes would train on devices of different kinds ({', '.join(kinds)}): "
            "start torchrun on machines with GPUs of one kind, or with --torch-device cpu"
        )
