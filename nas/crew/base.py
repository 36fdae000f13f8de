"""A crew: workers that each hold one function, and give its answers in the order of the tasks.

The answers do not depend on the number of workers: each computes with one thread. A worker that
dies is replaced, and what it was asked for is asked again. Everything is the same with a crew of
this process alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from latbench.errors import InvalidValueError, RuntimeFailure

Task = TypeVar("Task")
Answer = TypeVar("Answer")

TRIES = 3  # successive deaths without an answer between them
BEAT_S = 0.5  # while workers compute
Beat = Callable[[], None]
"""What is called from time to time while workers compute; its exception ends the work."""


class WorkersDiedError(RuntimeFailure):
    """Workers died too often.

    Attributes:
        found: The answers that there are, by number of the task.
    """

    def __init__(self, message: str, found: Mapping[int, Any]) -> None:
        super().__init__(message)
        self.found = dict(found)


def no_beat() -> None:
    """Do nothing while workers compute."""


@dataclass(frozen=True)
class CrewSettings:
    """Workers that are asked for. Their number changes no result.

    Attributes:
        count: Number of workers; None is this process without Ray, and all processors of a cluster
            with it.
        ray: Address of a Ray cluster, ``local`` for one that is started here, ``auto`` for the one
            that runs here; None for processes of this machine.
    """

    count: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InvalidValueError(f"{self.count} workers cannot do anything: give 1 or more")

    @property
    def is_asked(self) -> bool:
        """Whether workers are asked for, one or more."""
        return self.ray is not None or self.count is not None

    @property
    def is_alone(self) -> bool:
        """Whether this process does everything."""
        return self.ray is None and (self.count or 1) == 1

    def require_work(self, *, gpu: bool) -> None:
        """Refuse workers that share a GPU or are nowhere, before a training of hours.

        Raises:
            InvalidValueError: Processes of this machine would compute on one GPU.
            MissingExtraError: Ray is not installed.
            RuntimeFailure: Nothing listens at the address of the cluster.
        """
        if self.is_alone:
            return
        if self.ray is None and gpu:
            raise InvalidValueError(
                f"{self.count} workers would share one GPU, which one process keeps busy: leave "
                "out --workers, or add --torch-device cpu"
            )
        if self.ray is not None:
            from nas.crew.ray_cluster import require_reachable

            require_reachable(self.ray)


NO_CREW = CrewSettings()


class Crew(ABC, Generic[Task, Answer]):
    """Base of the crews: a context manager that ends its workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(kill=kind is not None)

    @abstractmethod
    def map(self, tasks: Sequence[Task], *, beat: Beat = no_beat) -> Iterator[Answer]:
        """The answers in the order of the tasks, each as soon as those before are there.

        Args:
            tasks: What the workers are asked for.
            beat: Called from time to time until the answers are there.

        Raises:
            RuntimeFailure: Workers died one after the other, without an answer between them.
        """

    def _end(self, *, kill: bool) -> None:
        """End the workers, at once or after their present task."""


def make_crew(
    work: Callable[[Task], Answer], settings: CrewSettings, *, at_once: int, gpu: bool = False
) -> Crew[Task, Answer]:
    """The crew that the settings ask for.

    Args:
        work: Function that each worker gets a copy of; it must be possible to pickle it.
        settings: The workers.
        at_once: Number of tasks that are asked for at once: more workers have no work.
        gpu: Whether the function computes on a GPU.

    Raises:
        MissingExtraError: Ray is not installed.
        RuntimeFailure: The cluster does not answer.
    """
    if settings.is_alone:
        return ThisProcess(work)
    if settings.ray is None:
        from nas.crew.processes import ProcessCrew

        return ProcessCrew(work, min(settings.count or 1, at_once))
    from nas.crew.ray_cluster import RayCrew

    return RayCrew(work, settings.ray, settings.count, at_once=at_once, gpu=gpu)


class ThisProcess(Crew[Task, Answer]):
    """A crew without workers: this process computes with one thread, as every worker does.

    The number of threads can change the last digits of a sum, and so an answer.
    """

    def __init__(self, work: Callable[[Task], Answer]) -> None:
        self._work = work

    def map(self, tasks: Sequence[Task], *, beat: Beat = no_beat) -> Iterator[Answer]:
        """The answers, each computed when it is asked for."""
        for task in tasks:
            beat()
            with one_thread():
                answer = self._work(task)
            yield answer


def compute_alike() -> None:
    """Set the threads and the arithmetic of a worker, so that all give the same answers."""
    import torch  # who only makes settings need not wait for it

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Context manager in which this process computes as a worker does."""
    import torch

    threads = torch.get_num_threads()
    compute_alike()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
