"""Work in a process of its own, which has the memory and the threads of nothing else."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import ModuleType
from typing import TypeVar

from latbench.errors import LatbenchError, RuntimeFailure
from latbench.progress import Progress, silent

Result = TypeVar("Result")

DIED = "the measuring process ended before it was done"

_BEAT_S = 0.5  # interval of progress reports until the new process has begun


def run_apart(
    work: Callable[..., Result], *arguments: object, died: str, progress: Progress = silent
) -> Result:
    """Call ``work(*arguments, progress)`` in a new process; return its result.

    Args:
        work: Function of a module, which the new process imports.
        arguments: Its arguments; they are sent to the process.
        died: Message of the error if the process ends without a result.
        progress: Callback that reports the progress of the work.

    Raises:
        RuntimeFailure: The process ended without a result.
        LatbenchError: The error of the work is raised here.
        OSError: A file cannot be read or written, for example on a full disk.
        sqlite3.Error: A table cannot be read or written.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work_here, args=(theirs,))
    with without_main_program(), _interrupts_later():
        process.start()  # Ctrl-C is for this process alone: it ends the other
    theirs.close()
    try:
        with _alive(died), open(ours.fileno(), "wb", closefd=False) as stream:
            pickle.dump((work, arguments), stream)  # start() would wait for ever for a dead process
        has_begun = False
        while True:
            with _alive(died):
                while not (has_begun or ours.poll(_BEAT_S)):
                    progress(0.0, "starting a process")
                kind, value = ours.recv()
            has_begun = True
            if kind == "result":
                result: Result = value
                return result
            if kind == "error":
                raise value
            if kind == "progress":
                progress(*value)
                with _alive(died):
                    ours.send(None)
    finally:
        process.terminate()
        process.join()
        ours.close()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back; a process that is started meanwhile never gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _alive(died: str) -> Iterator[None]:
    """Context manager in which the end of the process at the other end of a pipe is an error."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise RuntimeFailure(died) from None


@contextmanager
def without_main_program() -> Iterator[None]:
    """Context manager in which a new process does not import the main program.

    The work needs nothing from there. A script without ``if __name__ == "__main__":`` would begin
    again in the new process.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _work_here(pipe: Connection) -> None:
    """Body of the process; it ends without a word if nobody waits for its result any more."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _answer(pipe)


def _answer(pipe: Connection) -> None:
    """Receive the work, send progress, then the result or the error."""
    with open(pipe.fileno(), "rb", closefd=False) as stream:
        work, arguments = pickle.load(stream)
    pipe.send(("begun", None))

    def report(*now: object) -> None:
        pipe.send(("progress", now))
        pipe.recv()  # nothing is measured while the other process draws

    try:
        result = work(*arguments, report)
    except (LatbenchError, OSError, sqlite3.Error) as error:
        pipe.send(("error", error))
    else:
        pipe.send(("result", result))
