"""Data parallel training: equal processes, started by ``torchrun``, that average gradients.

Every process holds the whole model, draws the same batches and paths from the same seeds, and
computes on its part of each batch. All gradients are averaged in one call. The same parameters have
gradients in all processes, because paths are drawn from a shared seed. A single process runs the
same code without a group.

The group is NCCL where the torch device is a CUDA GPU, and gloo otherwise; other tensors are copied
to the device to be summed. All processes compute on one kind of device. Batch norm takes the
statistics of each process's share, and running statistics are averaged after an epoch. Only process
0 writes files.
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

LEAST_IMAGES = 2  # per process and batch: batch norm needs more than one value for a variance


@dataclass(frozen=True)
class Workers:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: Number of this process, counted from 0.
        count: Number of processes.
        device: Device on which the group sums tensors.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = CPU.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and draws the progress bar."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """The part of a batch that this process computes.

        Raises:
            InvalidValueError: The batch does not divide evenly, so averages would be wrong; or a
                process would have a single image, for which batch norm has no variance.
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
        """Numbers such as losses and counts, summed over the processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64).to(self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.cpu()]

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
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


def process_count() -> int:
    """Number of processes that ``torchrun`` started together with this one, and this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def workers(torch_device: TorchDevice = CPU) -> Iterator[Workers]:
    """The group in which ``torchrun`` started this process; a group of one without it.

    Args:
        torch_device: Device of this process.

    Raises:
        InvalidValueError: The processes have devices of different kinds, or of a kind that cannot
            work together.
    """
    if process_count() == 1:
        yield ALONE
        return
    device = torch_device.device
    if device.type not in ("cpu", "cuda"):
        raise InvalidValueError(
            f"several processes train on CPUs or on CUDA GPUs, not on {device}: choose another "
            "--torch-device, or start without torchrun"
        )
    store, rank, count = next(rendezvous("env://"))
    require_one_kind(store, rank, count, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=count
    )
    try:
        yield Workers(rank, count, device)
    except BaseException:
        if device.type == "cpu":  # NCCL would wait for the others, which wait for this process
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


class _Store(Protocol):
    """Shared storage in which processes exchange data before they form a group."""

    def set(self, key: str, value: str, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...


def require_one_kind(store: _Store, rank: int, count: int, device: torch.device) -> None:
    """Refuse to train on devices of different kinds: the slower ones would delay the others.

    Raises:
        InvalidValueError: The kinds differ; raised in every process, with the kinds found.
    """
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    store.set(f"latbench/kind/{rank}", kind)
    kinds = sorted({store.get(f"latbench/kind/{other}").decode() for other in range(count)})
    if len(kinds) > 1:
        raise InvalidValueError(
            f"the processes would train on devices of different kinds ({', '.join(kinds)}): "
            "start torchrun on machines with GPUs of one kind, or with --torch-device cpu"
        )
