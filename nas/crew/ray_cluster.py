"""A crew of actors in a Ray cluster. Each holds the function and asks for one processor.

An actor whose function computes on a GPU asks for one GPU; that has not been run.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from latbench import __version__
from latbench.errors import (
    LatbenchError,
    MismatchError,
    MissingExtraError,
    RuntimeFailure,
    in_one_line,
)
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

LOCAL = "local"
_CONNECT_S = 5.0
_START_S = 60.0  # until an actor has a processor and the function
_OWN_START_S = 600.0  # the same in a cluster of one's own, which is slow on a loaded machine


class RayCrew(Crew[Task, Answer]):
    """Computes in actors of a Ray cluster.

    Args:
        work: Function that each actor gets a copy of.
        address: Address of the cluster; ``local`` starts one here, ``auto`` finds the one here.
        most: Largest number of actors; None takes all processors of the cluster.
        at_once: Number of tasks that are asked for at once: more actors have no work.
        gpu: Whether the function computes on a GPU.

    Raises:
        MissingExtraError: Ray is not installed.
        RuntimeFailure: The cluster does not answer, has no GPU that is asked for or no free
            processor, or a task was on three actors that died.
        MismatchError: A node has another version of latbench.
    """

    def __init__(
        self,
        work: Callable[[Task], Answer],
        address: str,
        most: int | None,
        *,
        at_once: int,
        gpu: bool = False,
    ) -> None:
        self._ray, self._is_own = _connected(address, most)
        self._work = self._ray.put(pickle.dumps(work))
        self._gpu = gpu
        wanted = self._processors() if most is None else most
        self._most = max(1, min(wanted, self._processors(), at_once))
        self._idle: list[Any] = []
        self._alive = 0
        if gpu and not self._processors():
            self._end(kill=True)
            raise RuntimeFailure(
                "no node of the Ray cluster has a GPU: add one that has, or give --torch-device cpu"
            )

    def _processors(self) -> int:
        return int(self._ray.cluster_resources().get("GPU" if self._gpu else "CPU", 0))

    def map(self, tasks: Sequence[Task], *, beat: Beat = no_beat) -> Iterator[Answer]:
        """The answers in the order of the tasks."""
        ray, given = self._ray, 0
        found: dict[int, Answer] = {}
        deaths: Counter[int] = Counter()
        waiting = deque(range(len(tasks)))
        running: dict[Any, tuple[int, Any]] = {}  # by reference of the answer
        try:
            while given < len(tasks):
                if given in found:
                    yield found[given]
                    given += 1
                    continue
                while waiting and (self._idle or self._alive < self._most):
                    actor = self._idle.pop() if self._idle else self._new_actor(beat)
                    if actor is None:
                        break
                    number = waiting.popleft()
                    running[actor.answer.remote(tasks[number])] = number, actor
                beat()
                done, _ = ray.wait(list(running), num_returns=1, timeout=BEAT_S)
                if not done:
                    continue
                number, actor = running.pop(done[0])
                answers = self._answers_of(done[0])
                if answers:
                    (found[number],) = answers
                    self._idle.append(actor)
                    continue
                self._alive -= 1
                deaths[number] += 1
                if deaths[number] >= TRIES:
                    raise WorkersDiedError(
                        f"{TRIES} workers died with the same task: their memory may not suffice",
                        found,
                    )
                waiting.appendleft(number)
        finally:
            self._idle += [actor for _, actor in running.values()]

    def _answers_of(self, reference: Any) -> tuple[Answer, ...]:
        """The answer; none if its actor died."""
        ray = self._ray
        try:
            answer: Answer = ray.get(reference)
        except ray.exceptions.RayActorError:
            return ()
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, LatbenchError):
                raise cause from None
            raise
        return (answer,)

    def _waited_for(self, reference: Any, beat: Beat) -> bool:
        """Whether an actor begins in time; without a processor for it, others do its work."""
        until = monotonic() + (_OWN_START_S if self._is_own else _START_S)
        while monotonic() < until:
            beat()
            if self._ray.wait([reference], timeout=BEAT_S)[0]:
                return True
            if 0 < self._alive >= self._processors():
                return False
        return False

    def _new_actor(self, beat: Beat) -> Any | None:
        """An actor that has a processor; None if none is free, or it died, and others work.

        Raises:
            RuntimeFailure: No processor is free, or it died, and there is no other actor.
            MismatchError: Its node has another version of latbench.
        """
        ray = self._ray
        gpus = 1 if self._gpu else 0
        actor = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker).remote(self._work)
        version = actor.version.remote()
        is_ready = self._waited_for(version, beat)
        try:
            if not is_ready:
                ray.kill(actor)
                if self._alive:
                    self._most = self._alive  # the cluster became smaller
                    return None
                raise RuntimeFailure(
                    f"no worker of Ray started within {_OWN_START_S:.0f} s: stop other work"
                    if self._is_own
                    else f"no processor of the Ray cluster became free within {_START_S:.0f} s: "
                    "add a node, or wait until others have finished"
                )
            there = ray.get(version)
        except ray.exceptions.RayActorError as error:
            if self._alive:  # a node was lost: the others go on, and a later task tries again
                return None
            raise RuntimeFailure(
                f"a worker of the Ray cluster died at its start: {in_one_line(error, most=300)}"
            ) from error
        if there != __version__:
            raise MismatchError(
                f"a node of the Ray cluster has latbench {there}, this is {__version__}: install "
                "the same version there"
            )
        self._alive += 1
        return actor

    def _end(self, *, kill: bool) -> None:
        for actor in self._idle:
            with suppress(Exception):  # whatever happened to it, it is not needed any more
                self._ray.kill(actor)
        self._idle = []
        if self._is_own:
            self._ray.shutdown()


class _Worker:
    """An actor."""

    def __init__(self, work: bytes) -> None:
        compute_alike()
        self._work: Callable[[Any], Any] = pickle.loads(work)

    def version(self) -> str:
        return __version__

    def answer(self, task: Any) -> Any:
        return self._work(task)


def require_reachable(address: str) -> Any:
    """The module ``ray``, after a check that something listens at the address of a cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        RuntimeFailure: Nothing listens there.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("Ray", "ray") from None
    if address not in (LOCAL, "auto"):  # Ray itself would try for minutes
        try:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except (OSError, ValueError) as error:
            raise _unreachable(address, error) from error
    return ray


def _connected(address: str, most: int | None) -> tuple[Any, bool]:
    """The module ``ray``, connected to a cluster, and whether the connection was made here.

    A program that has a connection already keeps it, whatever the address.

    Raises:
        MissingExtraError: Ray is not installed.
        RuntimeFailure: The cluster does not answer.
    """
    ray = require_reachable(address)
    if ray.is_initialized():
        return ray, False
    here: dict[str, Any] = {}
    if address == LOCAL:
        here = {"num_cpus": max(most or 0, os.cpu_count() or 1), "include_dashboard": False}
    try:
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **here,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(address, error) from error
    return ray, True


def _unreachable(address: str, error: Exception) -> RuntimeFailure:
    return RuntimeFailure(
        f"no Ray cluster answers at {address} ({in_one_line(error, most=200)}): start one with "
        "`ray start --head`, or give --ray local"
    )
