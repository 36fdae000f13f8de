"""A crew of processes of this machine."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

from latbench.errors import RuntimeFailure, in_one_line
from latbench.workflows.apart import without_main_program
from nas.crew.base import (
    BEAT_S,
    TRIES,
    Answer,
    Beat,
    Crew,
    Task,
    WorkersDiedError,
    compute_alike,
    no_beat,
)


class ProcessCrew(Crew[Task, Answer]):
    """Computes in processes of this machine.

    Args:
        work: Function that each process gets a copy of.
        count: Number of processes.
    """

    def __init__(self, work: Callable[[Task], Answer], count: int) -> None:
        # copied by value: the pickler of processes would share each tensor by a file of its own
        self._work, self._count = pickle.dumps(work), count
        owner = getattr(work, "__self__", work)  # of built-in functions it is a module
        self._module: str = getattr(owner, "__module__", None) or work.__module__
        self._pool: ProcessPoolExecutor | None = None

    def map(self, tasks: Sequence[Task], *, beat: Beat = no_beat) -> Iterator[Answer]:
        """The answers in the order of the tasks."""
        found: dict[int, Answer] = {}
        running: dict[int, Future[Answer]] = {}
        given = deaths = 0
        while given < len(tasks):
            missing = [n for n in range(given, len(tasks)) if n not in found]
            known = len(found)
            try:
                running = self._submit({number: tasks[number] for number in missing})
                while given < len(tasks):
                    if given not in found:
                        found[given] = _result(running[given], beat)
                    yield found[given]
                    given += 1
            except BrokenProcessPool:
                for number, future in running.items():
                    if future.done() and future.exception() is None:
                        found[number] = future.result()
                self._end(kill=True)
                deaths = 1 if len(found) > known else deaths + 1
                if deaths >= TRIES:
                    raise WorkersDiedError(
                        f"{deaths} times a worker died, as it does if the memory does not suffice: "
                        "use fewer --workers",
                        found,
                    ) from None

    def _submit(self, wanted: dict[int, Task]) -> dict[int, Future[Answer]]:
        running: dict[int, Future[Answer]] = {}
        with without_main_program():
            if self._pool is None:
                context = get_context("forkserver")  # torch is imported once, not in each process
                context.set_forkserver_preload([self._module])
                self._pool = ProcessPoolExecutor(
                    self._count,
                    mp_context=context,
                    initializer=_prepare,
                    initargs=(self._work,),
                )
            for number, task in wanted.items():
                running[number] = self._pool.submit(_answer_here, task)
        return running

    def _end(self, *, kill: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        # Python has no public name for the processes before 3.14
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            if kill:
                process.kill()
            process.join()


def _result(future: Future[Answer], beat: Beat) -> Answer:
    """The answer of a worker."""
    while True:
        beat()
        try:
            return future.result(timeout=BEAT_S)
        except TimeoutError:
            if future.done():  # the worker's own error
                return future.result()


_work: Callable[[Any], Any] | None = None  # of this process, if it is one of a crew


def _prepare(work: bytes) -> None:
    """Begin a process of a crew."""
    global _work  # noqa: PLW0603 - a process of a pool has no other place for its state
    _work = pickle.loads(work)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    compute_alike()
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer_here(task: Any) -> Any:
    assert _work is not None, "a process of a crew was prepared"
    try:
        return _work(task)
    except Exception as error:
        if _is_portable(error):
            raise
        raise RuntimeFailure(f"{type(error).__name__}: {in_one_line(error)}") from error


def _is_portable(error: Exception) -> bool:
    """Whether another process can read an exception; else the pool would count as broken."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # code of the exception's class, which may raise anything
        return False
    return True
