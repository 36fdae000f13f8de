"""Visits to targets, on this machine or on a device elsewhere."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

from latbench.blocks import Network
from latbench.device import SweepProtocol
from latbench.measure.visit import Visit, visit
from latbench.models.onnx_model import OnnxModel
from latbench.profilers import Flush, Profiler, open_session
from latbench.profilers.remote import Asked, RemoteProfiler


@dataclass(frozen=True)
class Target:
    """A block (as a network of one block), a whole network or an ONNX model to visit.

    Attributes:
        id: Number under which the visits are stored.
        visits: Number of visits in a pass.
        dwell_ms: Duration of the hot calls.
        cold: Whether hot and cold calls are made, as for a block whose price has parts of both.
            Otherwise all calls count as hot, each in the state of the profile's ``cache``.
    """

    id: int
    network: Network | OnnxModel
    visits: int
    dwell_ms: float
    cold: bool = True


def block_target(target_id: int, network: Network, protocol: SweepProtocol) -> Target:
    """Target for a block: one short visit a pass, with hot and cold calls."""
    return Target(target_id, network, visits=1, dwell_ms=protocol.block_dwell_ms)


def network_target(
    target_id: int, network: Network, protocol: SweepProtocol, *, visits: int
) -> Target:
    """Target for a network: several long visits a pass, with calls as the profile states them."""
    dwell_ms = protocol.network_dwell_ms
    return Target(target_id, network, visits=visits, dwell_ms=dwell_ms, cold=False)


@dataclass(frozen=True)
class MadeVisit:
    """A visit that was made.

    Attributes:
        visit: Raw times.
        open_s: Time to open and close the session.
        distrust: Reason why the visit does not count; None if it counts.
    """

    visit: Visit
    open_s: float
    distrust: str | None


Visits = Generator[tuple[Target, MadeVisit], None, None]
"""Targets and their visits, as they are made."""


def make_visits(profiler: Profiler, targets: Iterable[Target]) -> Visits:
    """Visit targets in their order, wherever the device is.

    Raises:
        RuntimeFailure: The runtime refused a target, or the device cannot be used or reached.
    """
    if isinstance(profiler, RemoteProfiler):
        return _visits_elsewhere(profiler, targets)
    return visits_here(profiler, targets)


def visits_here(profiler: Profiler, targets: Iterable[Target]) -> Visits:
    """Visit targets of a profiler of this machine, each in a new session."""
    flush, watch = profiler.flush, profiler.watch()
    collecting = gc.isenabled()
    gc.disable()  # a garbage collection inside a call would be timed
    try:
        for target in targets:
            made = _visit_here(profiler, target, flush=flush, watch=watch)
            yield target, made
    finally:
        if collecting:
            gc.enable()


def _visit_here(
    profiler: Profiler, target: Target, *, flush: Flush, watch: Callable[[], None] | None
) -> MadeVisit:
    opening = perf_counter()
    session = open_session(profiler, target.network)
    opened = perf_counter()
    is_stated = profiler.profile.condition is not None
    taken = visit(
        session,
        profiler.profile.sweep,
        dwell_ms=target.dwell_ms,
        flush=flush if target.cold else None,
        before_each=flush if is_stated and not target.cold else None,
        watch=watch,
    )
    closing = perf_counter()
    session.close()
    open_s = opened - opening + perf_counter() - closing
    return MadeVisit(taken, open_s, profiler.distrust())


def _visits_elsewhere(profiler: RemoteProfiler, targets: Iterable[Target]) -> Visits:
    asked: deque[Target] = deque()

    def requests() -> Iterator[Asked]:
        for target in targets:
            asked.append(target)
            yield Asked(target.network, target.dwell_ms, target.cold)

    for taken in profiler.visits(requests()):
        made = MadeVisit(Visit(taken.hot_ns, taken.cold_ns), taken.open_s, taken.distrust)
        yield asked.popleft(), made
