"""A device elsewhere: whole visits are made there, and their times come back.

The timing loop runs on the device, and nothing else happens there while it times: requests go out
in batches, and the answer to a batch is sent when all its visits are made. The next batch is on
its way meanwhile, so the device does not wait for the line.

When the line broke and was made again, visits without an answer are asked for again, in the same
order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from latbench.blocks import Network
from latbench.conditions import Conditions
from latbench.device import DeviceProfile
from latbench.environment import Environment
from latbench.errors import RuntimeFailure
from latbench.models.onnx_model import OnnxModel
from latbench.profilers.base import Profiler, Session
from latbench.profilers.remote_connection import OPEN_S, RemoteConnection
from latbench.profilers.remote_link import LineLostError, RemoteLink
from latbench.profilers.remote_messages import (
    AskConditions,
    AskEnvironment,
    AskFootprint,
    AskLoad,
    AskNoise,
    Begin,
    ConditionsNow,
    EnvironmentNow,
    FootprintNow,
    Load,
    LoadNow,
    NoiseNow,
    Request,
    Taken,
    TakenVisit,
    VisitRequest,
    Visits,
)
from latbench.progress import Progress, silent

_EVICTION_S = 0.02  # of all caches before a call, where the profile states their state
_BATCH_S = 0.5  # duration of the visits that are asked for at once
_MAX_BATCH = 64
_AHEAD = 2  # batches on their way


@dataclass(frozen=True)
class Asked:
    """A visit to make elsewhere.

    Attributes:
        network: Network to visit.
        dwell_ms: Duration of the hot calls.
        cold: Whether cold calls follow.
    """

    network: Network | OnnxModel
    dwell_ms: float
    cold: bool


class RemoteProfiler(Profiler):
    """Measures on the device of a profile with ``[host]``.

    Sessions are opened on the device only, so ``open`` is refused here.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        assert profile.host is not None
        self.profile, self.host, self.gpu = profile, profile.host, None
        self.connection = RemoteConnection(profile, self.host)
        self._remarks: tuple[str, ...] = ()
        self._visit_s = _BATCH_S  # recent mean duration of a visit

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        return None  # known only when the device is reached

    def open(self, network: Network) -> Session:
        raise RuntimeFailure(f"sessions of {self.profile.name} are opened on {self.host} only")

    def versions(self) -> dict[str, str]:
        return self.connection.versions()

    def environment(self) -> Environment:
        now = self.connection.ask(AskEnvironment(), EnvironmentNow).environment
        self.connection.environment = self.connection.environment or now
        return now

    def remarks(self) -> list[str]:
        return list(self._remarks)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the device, so that no other client and no program there measures on it.

        Raises:
            DeviceBusyError: Another process measures on it; the message names it.
        """
        with self.connection.held():
            yield

    def begin(self, *, meter: bool = False) -> Conditions:
        """Bring the device to the state in which visits are made; its conditions then.

        Args:
            meter: Whether ``load`` counts from here.
        """
        return self._conditions(self.connection.ask(Begin(meter), ConditionsNow))

    def conditions(self) -> Conditions:
        return self._conditions(self.connection.ask(AskConditions(), ConditionsNow))

    def _conditions(self, answer: ConditionsNow) -> Conditions:
        self._remarks = answer.remarks
        return answer.conditions

    def load(self) -> Load | None:
        """Load there since ``begin`` with ``meter``; None if the system does not count it."""
        return self.connection.ask(AskLoad(), LoadNow).load

    def footprint(
        self, network: Network | OnnxModel, progress: Progress = silent
    ) -> tuple[float, float]:
        """Time there to open a network in ms, and memory that it takes in 10^6 bytes."""

        def request() -> Request:
            return AskFootprint(self.connection.number(network))

        found = self.connection.ask(request, FootprintNow, within_s=OPEN_S, progress=progress)
        return found.load_ms, found.peak_mb

    def noise(self, seconds: float, progress: Progress = silent) -> dict[str, object]:
        """Result of a noise check there, as the fields of ``NoiseCheck``."""
        return self.connection.ask(
            AskNoise(seconds), NoiseNow, within_s=OPEN_S, progress=progress
        ).fields

    def visits(self, asked: Iterable[Asked]) -> Iterator[TakenVisit]:
        """Make visits there.

        Args:
            asked: Visits to make, in their order. It is read some batches ahead.

        Yields:
            Times of the visits, in the order of ``asked``.

        Raises:
            RuntimeFailure: A network was refused, or the device cannot be reached any more.
        """
        waiting: deque[list[Asked]] = deque()
        try:
            yield from self._visits(iter(asked), waiting)
        finally:
            if waiting:  # answers that nobody wants are on their way
                self.close()

    def close(self) -> None:
        """End the line; the next request makes a new one."""
        self.connection.close()

    def _visits(self, source: Iterator[Asked], waiting: deque[list[Asked]]) -> Iterator[TakenVisit]:
        sent = 0  # batches of ``waiting`` that are on their way on the present connection
        losses = 0  # successive ones without an answer between them
        while True:
            try:
                link = self.connection.connected()
                while sent < _AHEAD:
                    if sent == len(waiting):
                        size = max(1, min(_MAX_BATCH, round(_BATCH_S / self._visit_s)))
                        batch = list(islice(source, size))
                        if not batch:
                            break
                        waiting.append(batch)
                    # while the first batch is at work, the server reads nothing
                    self._send_batch(link, waiting[sent], within_s=_patience_s(waiting[0]))
                    sent += 1
                if not waiting:
                    return
                answer = self.connection.answer(link, Taken, within_s=_patience_s(waiting[0]))
            except LineLostError as error:
                sent, losses = 0, losses + 1
                self.connection.reconnect(error, losses)
                continue
            batch, sent, losses = waiting.popleft(), sent - 1, 0
            if len(answer.visits) != len(batch):
                raise RuntimeFailure(
                    f"{self.host} made {len(answer.visits)} of {len(batch)} visits"
                )
            for taken in answer.visits:
                self._visit_s = 0.9 * self._visit_s + 0.1 * self._duration_s(taken)
                yield taken

    def _duration_s(self, taken: TakenVisit) -> float:
        """Rough duration of a visit there."""
        evicted = len(taken.cold_ns or taken.hot_ns) if self.profile.condition else 0
        calls_s = (sum(taken.hot_ns) + sum(taken.cold_ns)) / 1e9
        return taken.open_s + calls_s + evicted * _EVICTION_S

    def _send_batch(self, link: RemoteLink, batch: list[Asked], *, within_s: float) -> None:
        requests = tuple(
            VisitRequest(
                self.connection.number(each.network, within_s=within_s), each.dwell_ms, each.cold
            )
            for each in batch
        )
        link.send(Visits(requests), within_s=within_s)


def _patience_s(batch: list[Asked]) -> float:
    """Time without a sign after which the device counts as lost: it signs between visits."""
    return OPEN_S + 2e-3 * max(each.dwell_ms for each in batch)
