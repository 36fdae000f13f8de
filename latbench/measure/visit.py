"""One visit to one target: the only timing loop in the project."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from latbench.device import SweepProtocol
from latbench.profilers import Session

_MAX_HOT_CALLS = 100  # bounds what is stored of a visit to a very fast target


@dataclass(frozen=True, slots=True)
class Visit:
    """Raw times of one visit, in ns, in the order of the calls."""

    hot_ns: tuple[int, ...]
    cold_ns: tuple[int, ...]

    @property
    def calls_ns(self) -> int:
        return sum(self.hot_ns) + sum(self.cold_ns)


class CacheFlusher:
    """Evicts the L2 cache by writing a buffer of its size."""

    def __init__(self, size_bytes: int) -> None:
        self._buffer = np.zeros(max(1, size_bytes // 4), dtype=np.float32)

    def __call__(self) -> None:
        self._buffer.fill(1.0)


def visit(
    session: Session,
    protocol: SweepProtocol,
    *,
    dwell_ms: float,
    flush: CacheFlusher | None,
) -> Visit:
    """Call a session: untimed, then hot for ``dwell_ms``, then cold after a flush each.

    Args:
        session: An open session.
        protocol: How many calls of each kind.
        dwell_ms: How long hot calls go on, in ms; at least ``protocol.hot_calls`` are made.
        flush: Evicts the cache before a cold call; None makes no cold calls.
    """
    call = session.call
    for _ in range(protocol.warmup_calls):
        call()
    hot: list[int] = []
    until = perf_counter_ns() + int(dwell_ms * 1e6)
    while len(hot) < protocol.hot_calls or (
        perf_counter_ns() < until and len(hot) < _MAX_HOT_CALLS
    ):
        start = perf_counter_ns()
        call()
        hot.append(perf_counter_ns() - start)
    cold: list[int] = []
    if flush is not None:
        for _ in range(protocol.cold_calls):
            flush()
            start = perf_counter_ns()
            call()
            cold.append(perf_counter_ns() - start)
    return Visit(tuple(hot), tuple(cold))
