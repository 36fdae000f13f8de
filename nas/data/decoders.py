"""Workers that decode images: threads of this process, or separate processes.

Threads are simple, and are used for training on a CPU. They take Python's lock several times per
image, and then the thread that launches GPU work waits for them. So processes are used for training
on a GPU. Both decode the same pixels.

The processes are plain programs (``nas.data.decoding_process``) that communicate by sockets. They
import neither torch nor the main program, unlike the processes of ``multiprocessing`` and of
torch's loader. They need no shared memory, which is small in containers. A process ends when its
socket closes; the system closes it if this process dies.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from typing import Protocol

from latbench.environment import usable_processors
from latbench.errors import InvalidFileError, RuntimeFailure
from nas.data.decoding import Job, Pixels, decode
from nas.data.decoding_process import ANSWER, TEXT
from nas.data.stores import Store

_PROGRAM = "nas.data.decoding_process"
_THREADS = "latbench-decode"
_END_S = 5.0  # time that a busy process has to end; then it is killed


def available_cores() -> int:
    """Number of cores for this process; under ``torchrun``, its share of the machine's cores."""
    return max(1, len(usable_processors()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class Decoders(Protocol):
    """Workers that decode images.

    Attributes:
        count: Number of workers.
    """

    count: int

    def submit(self, job: Job, into: Pixels) -> Future[None]:
        """Start decoding a job's images into an array of the job's shape.

        Returns:
            A future that raises InvalidFileError if an image is missing or damaged.
        """

    def close(self) -> None:
        """End the workers after their current jobs."""


class DecodingThreads:
    """Threads of this process.

    Args:
        count: Number of threads; ``available_cores`` if None.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or available_cores()
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix=_THREADS)

    def submit(self, job: Job, into: Pixels) -> Future[None]:
        return self._pool.submit(decode, job, into)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class DecodingProcesses:
    """Separate processes; they start with the first job and end when this object is deleted.

    Args:
        count: Number of processes; if None, one per core except for one core.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or max(1, available_cores() - 1)
        self._started: _Started | None = None
        self._lock = Lock()  # guards start and end: several threads may read images

    def __reduce__(self) -> tuple[type[DecodingProcesses], tuple[int]]:
        return DecodingProcesses, (self.count,)  # a copy starts its own processes

    def submit(self, job: Job, into: Pixels) -> Future[None]:
        with self._lock:
            if self._started is None:
                self._started = _Started(self.count)
                self._end = weakref.finalize(self, self._started.close)
            return self._started.submit(job, into)

    @property
    def programs(self) -> tuple[subprocess.Popen[bytes], ...]:
        """The running processes; none before the first job."""
        return () if self._started is None else self._started.programs

    def close(self) -> None:
        """End the processes after their jobs; the next job starts new ones."""
        with self._lock:
            if self._started is not None:
                self._end()
                self._started = None


class _Started:
    """Running processes, and one thread per process that waits for its answers."""

    def __init__(self, count: int) -> None:
        self._processes = [_Process() for _ in range(count)]
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=_THREADS)

    def submit(self, job: Job, into: Pixels) -> Future[None]:
        return self._threads.submit(self._decode, job, into)

    @property
    def programs(self) -> tuple[subprocess.Popen[bytes], ...]:
        return tuple(process.program for process in self._processes)

    def _decode(self, job: Job, into: Pixels) -> None:
        process = self._idle.get()  # every thread finds a process
        try:
            process.decode(job, into)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.connection.close()
        for process in self._processes:
            process.end()


class _Process:
    """One process that decodes, and the socket to it."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            self.program = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._store: Store | None = None  # the last store sent to the process

    def decode(self, job: Job, into: Pixels) -> None:
        """Decode like ``nas.data.decoding.decode``.

        Raises:
            InvalidFileError: An image is missing or damaged.
            RuntimeFailure: The process has ended.
        """
        store = job.store.part(job.numbers)
        sent = None if store is self._store else store
        request = pickle.dumps((sent, job.numbers, job.framing, job.key))
        self._store = store
        try:
            self.connection.sendall(request)
            (length,) = ANSWER.unpack(self._receive(memoryview(bytearray(ANSWER.size))))
            if not length:
                self._receive(into.data.cast("B"))
                return
            message = bytes(self._receive(memoryview(bytearray(length)))).decode(*TEXT)
        except (OSError, EOFError):
            raise RuntimeFailure(
                f"a process that decodes images has ended (exit code {self.program.poll()}), as "
                "it does if memory is short; repeat the command to resume"
            ) from None
        raise InvalidFileError(message)

    def _receive(self, into: memoryview) -> memoryview:
        """Fill the memory in one call, so that Python's lock is taken once."""
        rest = into
        while rest:
            received = self.connection.recv_into(rest, flags=socket.MSG_WAITALL)
            if not received:
                raise EOFError
            rest = rest[received:]
        return into

    def end(self) -> None:
        """Wait until the process ends, which it does after its socket is closed."""
        try:
            self.program.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.program.kill()
            self.program.wait()
