"""One visit to one target: the only timing loop in the project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns

from latbench.device import SweepProtocol
from latbench.profilers import Flush, Session

_MAX_HOT_CALLS = 100  # limits the stored size of a visit to a very fast target


@dataclass(frozen=True, slots=True)
class Visit:
    """Raw times of one visit, in ns, in the order of the calls."""

    hot_ns: tuple[int, ...]
    cold_ns: tuple[int, ...]

    @property
    def calls_ns(self) -> int:
        return sum(self.hot_ns) + sum(self.cold_ns)


def visit(
    session: Session,
    protocol: SweepProtocol,
    *,
    dwell_ms: float,
    flush: Flush | None,
    before_each: Flush | None = None,
    watch: Callable[[], None] | None = None,
) -> Visit:
    """Make untimed calls, then hot calls for ``dwell_ms``, then cold calls, each after a flush.

    ``before_each`` replaces the back-to-back calls by calls in a stated condition of the caches.

    Args:
        session: An open session.
        protocol: Number of calls of each kind.
        dwell_ms: Duration of the hot calls in ms; at least ``protocol.hot_calls`` are made.
        flush: Function that evicts the cache before a cold call; None for no cold calls.
        before_each: Function that is called before each hot call, outside its time; None for calls
            that directly follow each other.
        watch: Function that checks the device while it works. It is called between the hot calls
            and after the last call.
    """
    call, timed_call = session.call, session.timed_call
    for _ in range(protocol.warmup_calls):
        call()
    if protocol.warmup_ms:
        until = perf_counter_ns() + int(protocol.warmup_ms * 1e6)
        while perf_counter_ns() < until:
            call()
    hot: list[int] = []
    until = perf_counter_ns() + int(dwell_ms * 1e6)
    while len(hot) < protocol.hot_calls or (
        perf_counter_ns() < until and len(hot) < _MAX_HOT_CALLS
    ):
        if before_each is not None:
            before_each()
        hot.append(timed_call())
        if watch is not None and len(hot) == protocol.hot_calls:
            watch()
    cold: list[int] = []
    if flush is not None:
        for _ in range(protocol.cold_calls):
            flush()
            cold.append(timed_call())
    if watch is not None:
        watch()
    return Visit(tuple(hot), tuple(cold))
