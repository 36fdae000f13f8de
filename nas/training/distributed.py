"""Data parallel training: equal processes, started by ``torchrun``, that average gradients.

Every process holds the whole model, draws the same batches and paths from the same seeds, and
computes on its part of each batch. Gradients are summed in one piece, whichever parameters have
any: with paths drawn from a shared seed these are the same everywhere. One process alone is the
same code without a group.

The group is gloo on CPUs and NCCL on GPUs. Process 0 alone writes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from latbench.errors import InvalidValueError

LEAST_IMAGES = 2  # in the batch of a process: batch norm has no variance of one value


@dataclass(frozen=True)
class Workers:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: Number of this process, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

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
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            dist.barrier()

    @torch.no_grad()
    def _average(self, tensors: list[Tensor]) -> None:
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, part in zip(
            tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))


ALONE = Workers()


@contextmanager
def workers() -> Iterator[Workers]:
    """The group that ``torchrun`` started this process in; alone without it.

    On machines with GPUs each process takes the one of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
