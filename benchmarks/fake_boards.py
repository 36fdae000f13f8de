"""Simulated boards: threads of one process that answer at once, and break lines with some chance.

A board's command is a shell that passes bytes between its standard streams and a socket.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from zlib import crc32

import msgspec

from latbench import __version__
from latbench.conditions import Conditions
from latbench.device import DeviceProfile, Host, SweepProtocol
from latbench.environment import current_environment
from latbench.profilers.remote_messages import (
    LENGTH_BYTES,
    MARK,
    PROTOCOL,
    AddNetwork,
    Answer,
    AskConditions,
    AskEnvironment,
    Begin,
    ConditionsNow,
    Done,
    EnvironmentNow,
    Hold,
    Open,
    Opened,
    Release,
    Request,
    Taken,
    TakenVisit,
    Visits,
    Welcome,
    packed,
)

# a process for each direction; when one ends, both do
_RELAY = (
    'exec 3<>"/dev/tcp/127.0.0.1/$0" 4<&0 && echo "$1" >&3 && '
    "{ (cat <&4 >&3; kill 0) & cat <&3; kill 0; }"
)


class FakeBoards:
    """Boards by name, each with its faults.

    Args:
        breaks: Chance that a board breaks the line instead of answering a request for visits.
        moody: Whether a board has another governor on every new line.
        dead: Names of boards that break the line for ever at their tenth request for visits.
        seed: Seed of the faults.
    """

    def __init__(
        self,
        *,
        breaks: float = 0.0,
        dead: frozenset[str] = frozenset(),
        moody: bool = False,
        seed: int = 0,
    ) -> None:
        self._breaks, self._dead, self._moody = breaks, dead, moody
        self._lines = 0
        self._rng, self._lock = random.Random(seed), Lock()
        self._asked: dict[str, int] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.broken = 0

    def profile(self, name: str, sweep: SweepProtocol) -> DeviceProfile:
        """The device profile of a board."""
        port = str(self._listener.getsockname()[1])
        host = Host(command=("bash", "-c", _RELAY, port, name), python="python3")
        return DeviceProfile(name, "onnxruntime", sweep=sweep, host=host)

    def serve(self) -> None:
        """Answer until the boards are closed."""
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                Thread(target=self._answer_all, args=(line,), daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _answer_all(self, line: socket.socket) -> None:
        with line, line.makefile("rb") as source, suppress(OSError, EOFError):
            name = source.readline().decode().strip()
            if self._asked.get(name, 0) >= 10 and name in self._dead:
                return
            line.sendall(MARK + packed(Welcome(PROTOCOL, __version__, "3.11")))
            networks: dict[int, list[float]] = {}
            self._lines += 1
            governor = f"governor {self._lines}" if self._moody else None
            while True:
                length = int.from_bytes(_exactly(source, LENGTH_BYTES), "big")
                request = msgspec.msgpack.decode(_exactly(source, length), type=Request)
                if isinstance(request, Visits) and self._is_broken(name):
                    return
                answer = _answer(request, networks, governor)
                if answer is not None:
                    line.sendall(packed(answer))

    def _is_broken(self, name: str) -> bool:
        with self._lock:
            self._asked[name] = self._asked.get(name, 0) + 1
            is_dead = name in self._dead and self._asked[name] >= 10
            is_broken = is_dead or self._rng.random() < self._breaks
            self.broken += is_broken
            return is_broken


@contextmanager
def fake_boards(
    *, breaks: float = 0.0, dead: frozenset[str] = frozenset(), moody: bool = False
) -> Iterator[FakeBoards]:
    """Boards that answer while the context lasts."""
    boards = FakeBoards(breaks=breaks, dead=dead, moody=moody)
    server = Thread(target=boards.serve, daemon=True)
    server.start()
    try:
        yield boards
    finally:
        with suppress(OSError):  # wakes the server up
            boards._listener.shutdown(socket.SHUT_RDWR)
        boards.close()
        server.join()


def _exactly(source: object, count: int) -> bytes:
    data: bytes = source.read(count)  # type: ignore[attr-defined]
    if len(data) < count:
        raise EOFError
    return data


def _answer(
    request: Request, networks: dict[int, list[float]], governor: str | None
) -> Answer | None:
    if isinstance(request, AddNetwork):
        networks[request.number] = [block_ms(key) for key in request.blocks]
        return None
    if isinstance(request, Visits):
        return Taken(tuple(_visit(sum(networks[each.number])) for each in request.requests))
    if isinstance(request, Open):
        return Opened({"onnxruntime": "1.0"})
    if isinstance(request, Hold | Release):
        return Done()
    if isinstance(request, AskEnvironment):
        here = current_environment({"onnxruntime": "1.0"})
        return EnvironmentNow(msgspec.structs.replace(here, governor=governor))
    assert isinstance(request, Begin | AskConditions)
    return ConditionsNow(Conditions())


def block_ms(key: str) -> float:
    """A latency that depends on the block alone."""
    return 0.01 + struct.unpack("<H", struct.pack("<I", crc32(key.encode()))[:2])[0] / 4e6


def _visit(latency_ms: float) -> TakenVisit:
    taken_ns = round(latency_ms * 1e6)
    return TakenVisit((taken_ns,) * 3, (taken_ns,) * 3, 0.0)
