"""Work in a process of its own, which has the memory and the threads of nothing else."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from latbench.errors import LatbenchError, RuntimeFailure
from latbench.progress import Progress, silent

Result = TypeVar("Result")


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
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work_here, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        while True:
            kind, value = ours.recv()
            if kind == "result":
                result: Result = value
                return result
            if kind == "error":
                raise value
            progress(*value)
    except EOFError:
        raise RuntimeFailure(died) from None
    finally:
        process.terminate()
        process.join()
        ours.close()


def _work_here(pipe: Connection, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    """Body of the process: sends progress, then the result or the error."""
    try:
        result = work(*arguments, lambda *now: pipe.send(("progress", now)))
    except (LatbenchError, OSError, sqlite3.Error) as error:
        pipe.send(("error", error))
    else:
        pipe.send(("result", result))
