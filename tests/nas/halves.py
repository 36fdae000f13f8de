"""Simulates two training processes in one process that averages half batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nas.training.distributed import Workers

_TOGETHER_S = 600.0  # after which a thread that waits for the other gives up


class _Meeting:
    """Exchange of numbers between two threads of one process.

    One thread computes at a time, and the other one when this one waits: both draw first weights
    from torch's one generator.
    """

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._barrier = threading.Barrier(2)
        self._brought: list[list[Tensor]] = [[], []]

    def mean(self, rank: int, values: list[Tensor]) -> list[Tensor]:
        """The mean of both threads' numbers."""
        self._brought[rank] = [value.detach().clone() for value in values]
        self._meet()
        result = [(a + b) / 2 for a, b in zip(*self._brought, strict=True)]
        self._meet()
        return result

    def end(self) -> None:
        """Release a waiting thread so that it ends too."""
        self._barrier.abort()

    def _meet(self) -> None:
        self.turn.release()
        try:
            self._barrier.wait(_TOGETHER_S)
        finally:
            self.turn.acquire()


@dataclass(frozen=True)
class Half(Workers):
    """One of two workers that each compute half of every batch, without a process group."""

    count: int = 2
    meeting: _Meeting = field(default_factory=_Meeting)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        self._average_all([p.grad for p in parameters if p.grad is not None])

    def average_buffers(self, model: nn.Module) -> None:
        self._average_all([buffer for buffer in model.buffers() if buffer.is_floating_point()])

    def sum(self, values: Sequence[float]) -> list[float]:
        means = self.meeting.mean(self.rank, [torch.tensor(values, dtype=torch.float64)])
        return [2 * float(value) for value in means[0]]

    def wait(self) -> None:
        self.meeting.mean(self.rank, [])

    def _average_all(self, values: list[Tensor]) -> None:
        for value, mean in zip(values, self.meeting.mean(self.rank, values), strict=True):
            value.copy_(mean)


def in_halves(work: Callable[[Half], object]) -> None:
    """Do the work of both processes, each in a thread of its own.

    Args:
        work: Function that does a process's work; takes its worker.
    """
    meeting = _Meeting()

    def begin(rank: int) -> None:
        with meeting.turn:
            try:
                work(Half(rank, meeting=meeting))
            except BaseException:
                meeting.end()
                raise

    with ThreadPoolExecutor(2) as threads:
        for end in [threads.submit(begin, rank) for rank in range(2)]:
            end.result()
