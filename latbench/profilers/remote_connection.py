"""The connection to a device elsewhere: greeted, held, and made again when the line breaks.

A line that breaks is made again, for some minutes with growing pauses. The device must then be as
it was: the same versions, the same settings.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from threading import Event
from time import monotonic
from typing import TypeVar
from weakref import WeakKeyDictionary

import msgspec
import numpy as np

from latbench import __version__
from latbench.blocks import Network, block_key
from latbench.device import DeviceProfile, Host
from latbench.environment import Environment
from latbench.errors import (
    DeviceBusyError,
    InvalidValueError,
    LatbenchError,
    MismatchError,
    RuntimeFailure,
)
from latbench.models.onnx_model import OnnxModel
from latbench.profilers.remote_link import LineLostError, RemoteLink
from latbench.profilers.remote_messages import (
    CHUNK_BYTES,
    PROTOCOL,
    AddModel,
    AddNetwork,
    AddWeights,
    Answer,
    AskEnvironment,
    Beat,
    Done,
    EnvironmentNow,
    Failed,
    Forget,
    Hold,
    Open,
    Opened,
    Release,
    Request,
    TensorHeader,
    Welcome,
)
from latbench.progress import Progress, silent

A = TypeVar("A", bound=Answer)

OPEN_S = 300.0  # for loading a runtime, or opening a large network, on a small board
SILENCE_S = 60.0  # without a sign of the server, besides the time that the work takes
_GREET_S = 30.0  # until the server has started: Python and NumPy on a small board
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0, 60.0)  # a board reboots in a minute or two
_MOST_LOSSES = 5  # of the line at one request, which then seems to be the cause
_BUSY_S = 6.0  # until a server notices that its line broke, and gives the device back
_BUSY_PAUSE_S = 0.5

_ERRORS: dict[str, type[LatbenchError]] = {
    kind.kind: kind for kind in (DeviceBusyError, InvalidValueError, MismatchError, RuntimeFailure)
}


class RemoteConnection:
    """One client's connection to the device of a profile. Nothing is reached before it is used.

    Args:
        profile: Device profile.
        host: Where the device is.

    Attributes:
        link: The present line; None if there is none.
        is_held: Whether a new line takes the lock of the device.
        environment: State of the device that a new line must find again; None for any.
        stop: Event by which another thread interrupts whoever waits for the device.
    """

    def __init__(self, profile: DeviceProfile, host: Host) -> None:
        self._profile, self.host = profile, host
        self.link: RemoteLink | None = None
        self._end: Callable[[], object] | None = None  # ends the present line, once
        self.is_held = False
        self.environment: Environment | None = None
        self.stop = Event()
        self._versions: dict[str, str] = {}
        self._numbers = count()
        self._networks: dict[Network, int] = {}  # numbers of networks, on the present line
        self._models: WeakKeyDictionary[OnnxModel, int] = WeakKeyDictionary()
        self._sent: set[int] = set()  # numbers of models that are there, also of those gone here

    def versions(self) -> dict[str, str]:
        """Versions of the runtime and its libraries there."""
        self.connected()
        return self._versions

    def close(self) -> None:
        """End the line; the next request makes a new one."""
        if self._end is not None:
            self._end()
        self.link = None

    def connected(self) -> RemoteLink:
        """The present line, or a new one."""
        if self.link is None:
            link = RemoteLink(self.host, self.stop)
            try:
                self._greet(link)
            except BaseException:
                link.close()
                raise
            self.link, self._networks = link, {}
            self._models, self._sent = WeakKeyDictionary(), set()
            self._end = weakref.finalize(self, link.close)
        return self.link

    def _greet(self, link: RemoteLink) -> None:
        """Compare versions, prepare the profiler there, and hold the device if it was held."""
        queued = bool(self.host.command)  # ssh has time limits of its own
        welcome = self.answer(link, Welcome, within_s=OPEN_S if queued else _GREET_S)
        if (welcome.protocol, welcome.latbench) != (PROTOCOL, __version__):
            line = self.host.run_command("-m", "pip", "install", "--force-reinstall", "WHEEL")
            raise MismatchError(
                f"{self.host} has latbench {welcome.latbench}, protocol {welcome.protocol}, "
                f"this is {__version__}, protocol {PROTOCOL}: build a wheel of this one, copy it "
                f"there, and run `{' '.join(line)}`"
            )
        profile = msgspec.structs.replace(self._profile, host=None)
        link.send(Open(profile, client=_client()), within_s=SILENCE_S)
        self._versions = self.answer(link, Opened, within_s=OPEN_S).versions
        if self.is_held:
            self._hold(link)
        if self.environment is not None:
            link.send(AskEnvironment(), within_s=SILENCE_S)
            now = self.answer(link, EnvironmentNow).environment
            differences = now.differences(self.environment)
            if differences:
                raise MismatchError(
                    f"{self.host} came back otherwise ({'; '.join(differences)}): set it as it "
                    "was, and run the same command again"
                )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the device's lock, also on lines that are made meanwhile.

        Raises:
            DeviceBusyError: Another process measures on the device; the message names it.
        """
        self.is_held = True
        try:
            if self.link is None:
                self.connected()  # a new line takes the lock
            else:
                try:
                    self._hold(self.link)
                except LineLostError as error:  # it broke while nobody used it
                    self.reconnect(error, 1)
            yield
        except BaseException:  # the server may be at work: the line's end gives the device back
            self.close()
            raise
        finally:
            self.is_held = False
            if self.stop.is_set():  # what was measured is complete, and nothing is waited for
                self.close()
            if self.link is not None:  # a line that broke gives the device back by itself
                with suppress(LatbenchError):
                    self.link.send(Release(), within_s=SILENCE_S)
                    self.answer(self.link, Done)

    def _hold(self, link: RemoteLink) -> None:
        """Take the lock of the device; a server whose client is gone has it for some seconds."""
        until = monotonic() + _BUSY_S
        while True:
            link.send(Hold(), within_s=SILENCE_S)
            try:
                self.answer(link, Done)
                return
            except DeviceBusyError:
                if monotonic() > until:
                    raise
                self._pause(_BUSY_PAUSE_S)

    def reconnect(self, error: LineLostError, losses: int) -> None:
        """Make the line again after it broke.

        Args:
            error: How it broke.
            losses: How often it broke at the present request.

        Raises:
            RuntimeFailure: The device cannot be reached any more, or the request itself breaks the
                line.
            MismatchError: The device came back with other settings or versions.
        """
        self.close()
        if losses >= _MOST_LOSSES:
            raise RuntimeFailure(
                f"{error.message}, {losses} times at the same request: its memory may not suffice"
            )
        for pause_s in _PAUSES_S:
            try:
                self.connected()
                return
            except (DeviceBusyError, RuntimeFailure) as again:
                # the server of the line that broke has the device until it notices
                if isinstance(again, DeviceBusyError) and _client() not in again.message:
                    raise
                error = LineLostError(again.message)
                self._pause(pause_s)
        raise RuntimeFailure(
            f"{error.message}; it was tried again for {sum(_PAUSES_S) / 60:.0f} min. All finished "
            "passes are kept: run the same command again when the device is back"
        )

    def _pause(self, pause_s: float) -> None:
        if self.stop.wait(pause_s):
            raise KeyboardInterrupt

    def ask(
        self,
        request: Request | Callable[[], Request],
        kind: type[A],
        *,
        within_s: float | None = None,
        progress: Progress = silent,
    ) -> A:
        """Ask, and ask again on a new line if the line breaks."""
        losses = 0
        while True:
            was_connected = self.link is not None
            try:
                link = self.connected()
                link.send(request() if callable(request) else request, within_s=SILENCE_S)
                return self.answer(link, kind, within_s=within_s, progress=progress)
            except LineLostError as error:
                if not was_connected:
                    self.close()
                    raise
                losses += 1
                self.reconnect(error, losses)
            except BaseException:  # the answer may still come, and would be taken for the next one
                self.close()
                raise

    def answer(
        self,
        link: RemoteLink,
        kind: type[A],
        *,
        within_s: float | None = None,
        progress: Progress = silent,
    ) -> A:
        """The answer that comes next; the server gives a sign now and then while it works."""
        within_s = SILENCE_S if within_s is None else within_s
        while True:
            answer = link.receive(within_s=within_s)
            if isinstance(answer, Beat):
                if answer.words:
                    progress(answer.done, answer.words)
            elif isinstance(answer, Failed):
                raise _ERRORS.get(answer.kind, RuntimeFailure)(f"{self.host}: {answer.message}")
            elif isinstance(answer, kind):
                return answer
            else:
                raise RuntimeFailure(
                    f"{self.host} answered {type(answer).__name__} instead of {kind.__name__}"
                )

    def number(self, network: Network | OnnxModel, *, within_s: float = SILENCE_S) -> int:
        """Number of a network on the present line; a new network is sent.

        Before a new model is sent, those that this program has no more are freed there.

        Args:
            network: The network.
            within_s: Time within which the server takes something of it; longer than a visit where
                the server may be at work.

        Raises:
            RuntimeFailure: The graph of a model is too large for a message.
        """
        link = self.connected()
        if not isinstance(network, OnnxModel):
            if network not in self._networks:
                blocks = tuple(block_key(spec) for spec in network)
                number = next(self._numbers)
                with _too_large("a segment"):
                    link.send(AddNetwork(number, blocks), within_s=within_s)
                self._networks[network] = number
            return self._networks[network]
        if network not in self._models:
            for gone in self._sent - set(self._models.values()):
                link.send(Forget(gone), within_s=within_s)
                self._sent.remove(gone)
            number = next(self._numbers)
            self._sent.add(number)
            _send_model(link, number, network, within_s=within_s)
            self._models[network] = number
        return self._models[network]


@contextmanager
def _too_large(what: str) -> Iterator[None]:
    """Refuse in one line what does not fit into a message."""
    try:
        yield
    except ValueError as error:
        raise RuntimeFailure(
            f"{what} cannot be sent, because its graph is too large for a message: weights of 4 "
            "bits stay in it. Measure it on the device itself"
        ) from error


def _send_model(link: RemoteLink, number: int, model: OnnxModel, *, within_s: float) -> None:
    weights = {name: np.ascontiguousarray(value) for name, value in model.weights.items()}
    described = AddModel(
        number,
        model.name,
        model.graph,
        tuple(TensorHeader(i.name, i.shape, i.dtype.name) for i in model.inputs),
        tuple(TensorHeader(n, v.shape, v.dtype.name) for n, v in weights.items()),
    )
    with _too_large(model.name):
        link.send(described, within_s=within_s)
    for name, value in weights.items():
        data = value.reshape(-1).view(np.uint8)
        for offset in range(0, len(data), CHUNK_BYTES):
            chunk = data[offset : offset + CHUNK_BYTES].tobytes()
            link.send(AddWeights(number, name, offset, chunk), within_s=within_s)


def _client() -> str:
    """This process, for whoever finds the device busy."""
    return f"process {os.getpid()} on {socket.gethostname()}"[:200]
