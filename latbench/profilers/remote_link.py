"""The line to a device elsewhere: a started command whose standard input and output carry messages.

The command is the system's ``ssh``, with its own keys, configuration and jump hosts, or any other
command that runs a program elsewhere. Nothing waits for ever: whoever waits says for how long, and
another thread can stop it.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Event
from time import monotonic

from latbench.device import Host
from latbench.errors import RuntimeFailure
from latbench.profilers.remote_messages import (
    LENGTH_BYTES,
    MARK,
    MAX_MESSAGE_BYTES,
    Answer,
    Request,
    packed,
    unpacked,
)

_READ_BYTES = 1 << 16
_MAX_GREETING_BYTES = 1 << 16  # what a login shell may print before the server starts
_CONNECT_S = 10  # of ssh: until the host answers
_ALIVE_S, _ALIVE_COUNT = 5, 4  # of ssh: a dead connection is found after 20 s
_LINGER_S = 2.0  # of a command that should end by itself
_LOOK_S = 0.5  # between two looks whether another thread stopped the wait
_SHOWN = 300  # characters of what the other side said


class LineLostError(RuntimeFailure):
    """The line to the device broke, or the device did not answer in time."""


class RemoteLink:
    """A running server and the line to it.

    Args:
        host: Where the device is.
        stop: Event after which whoever sends or receives gets a ``KeyboardInterrupt``.

    Raises:
        RuntimeFailure: The command cannot be started.
    """

    def __init__(self, host: Host, stop: Event) -> None:
        self.host, self._stop = host, stop
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the line
        command = host.run_command("-m", "latbench.serve", options=_ssh_options())
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,  # Ctrl-C is for this program, which then ends the line
            )
        except (OSError, ValueError) as error:  # ValueError: a word with a NUL
            self._said.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise RuntimeFailure(
                f"cannot start {command[0]!r}, which reaches {str(host)!r}: {reason}"
            ) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._received = bytearray()
        self._waiting: deque[memoryview] = deque()
        self._is_marked = False

    def send(self, message: Request, *, within_s: float) -> None:
        """Send a message; what the server answers meanwhile is kept.

        Raises:
            LineLostError: The line broke, or nothing was taken for ``within_s``.
        """
        self._waiting.append(memoryview(packed(message)))
        until = monotonic() + within_s
        while self._waiting:
            before = sum(map(len, self._waiting))
            self._move(until)
            if sum(map(len, self._waiting)) < before:
                until = monotonic() + within_s

    def receive(self, *, within_s: float) -> Answer:
        """The next message of the server.

        Raises:
            LineLostError: The line broke, or nothing came for ``within_s``.
            RuntimeFailure: What came is no message.
        """
        until = monotonic() + within_s
        while True:
            message = self._next()
            if message is not None:
                return message
            self._move(until)

    def close(self) -> None:
        """End the line. The server ends by itself when its input does."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        for end in (None, signal.SIGTERM, signal.SIGKILL):
            if end is not None:
                with suppress(ProcessLookupError):  # the command and what it started
                    os.killpg(self._process.pid, end)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LINGER_S)
                break
        self._said.close()

    def said(self) -> str:
        """Last line that the command or the server wrote to its error stream."""
        with suppress(OSError, ValueError):
            self._said.seek(0, os.SEEK_END)
            self._said.seek(max(0, self._said.tell() - 4096))
            *_, last = self._said.read().decode("utf-8", "replace").strip().split("\n")
            return " ".join(last.split())[:_SHOWN]
        return ""

    def _move(self, until: float) -> None:
        """Write and read what is possible; wait for a short time, and for at most one of both."""
        if self._stop.is_set():
            raise KeyboardInterrupt
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            if self._waiting:
                selector.register(self._in, selectors.EVENT_WRITE)
            ready = selector.select(max(0.0, min(_LOOK_S, until - monotonic())))
        if not ready and monotonic() >= until:
            raise LineLostError(f"{self.host} has not answered in time")
        for key, _ in ready:
            if key.fd == self._in:
                self._write()
            else:
                self._read()

    def _write(self) -> None:
        try:
            written = os.write(self._in, self._waiting[0][:_READ_BYTES])
        except BlockingIOError:
            return
        except OSError:  # a broken pipe: reading finds the reason
            self._read()
            raise self._ended() from None
        rest = self._waiting[0][written:]
        self._waiting.popleft()
        if rest:
            self._waiting.appendleft(rest)

    def _read(self) -> None:
        try:
            data = os.read(self._out, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise self._ended()
        self._received += data
        if not self._is_marked:
            self._find_mark()

    def _find_mark(self) -> None:
        at = self._received.find(MARK)
        if at >= 0:
            del self._received[: at + len(MARK)]
            self._is_marked = True
        elif len(self._received) > _MAX_GREETING_BYTES:
            raise self._no_server()

    def _next(self) -> Answer | None:
        """The next whole message; None if it is not there yet."""
        if not self._is_marked or len(self._received) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._received[:LENGTH_BYTES], "big")
        if length > MAX_MESSAGE_BYTES:
            raise RuntimeFailure(
                f"{self.host} sent a message of {length} bytes: that is no latbench"
            )
        if len(self._received) < LENGTH_BYTES + length:
            return None
        body = bytes(self._received[LENGTH_BYTES : LENGTH_BYTES + length])
        del self._received[: LENGTH_BYTES + length]
        try:
            return unpacked(body)
        except (ValueError, RecursionError) as error:
            raise RuntimeFailure(f"{self.host} sent what is no message: {error}") from error

    def _ended(self) -> RuntimeFailure:
        """What the end of the line means."""
        if self._is_marked:
            reason = self.said()
            return LineLostError(f"the line to {self.host} broke{f' ({reason})' if reason else ''}")
        return self._no_server()

    def _no_server(self) -> RuntimeFailure:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LINGER_S)
        came = " ".join(bytes(self._received[:_SHOWN]).decode("utf-8", "replace").split())
        return RuntimeFailure(_advice(self.host, self._process.returncode, self.said() or came))


def _ssh_options() -> Sequence[str]:
    """Options with which ssh never asks, and finds a dead line by itself."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": _CONNECT_S,
        "ServerAliveInterval": _ALIVE_S,
        "ServerAliveCountMax": _ALIVE_COUNT,
    }
    return ["-T", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]


_OTHER_PYTHON = (
    "name the Python there that has latbench: `--python` of `devices --add`, or `python` under "
    "[host] of the profile"
)
_ADVICE = (  # part of what the other side said, what to do about it
    ("could not resolve", "check the name of the host"),
    (
        "permission denied",
        "add your key with `ssh-copy-id {target}`; no password is asked for here",
    ),
    ("host key verification failed", "run `ssh {target}` once and accept its key"),
    ("connection refused", "is its ssh server running?"),
    ("timed out", "is it switched on, and in this network?"),
    ("no route to host", "is it switched on, and in this network?"),
    (
        "no module named latbench",
        "install its wheel there: `{python} -m pip install latbench-*.whl`",
    ),
    (
        "no module named",
        "the installation there is not complete: `{python} -m pip install latbench-*.whl`",
    ),
    ("not found", _OTHER_PYTHON),
    ("no such file", _OTHER_PYTHON),
    ("no space left", "its disk is full"),
)


def _advice(host: Host, code: int | None, said: str) -> str:
    """Why no server answered, and what to do."""
    remedy = next(
        (words for part, words in _ADVICE if part in said.lower()),
        "try `{command}` by hand",
    ).format(
        target=host.ssh or host,
        python=host.python,
        command=" ".join(host.run_command("-m", "latbench.serve")),
    )
    why = said or f"the command ended with code {code}"
    return f"no latbench answers on {host} ({why}): {remedy}"
