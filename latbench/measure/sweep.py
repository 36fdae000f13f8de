"""The interleaved sweep: all targets are visited in turn, in shuffled passes.

A shared machine changes its state several times a second. Targets that are measured minutes apart
cannot be compared, but targets that are visited in turn can. Every visit opens a new session,
because the placement of a session in memory changes its latency and stays the same while it is
open. New sessions average over this effect. They also limit the memory of a sweep to one network.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from latbench.blocks import Network
from latbench.device import SweepProtocol
from latbench.errors import RuntimeFailure
from latbench.measure.visit import Visit, visit
from latbench.models.onnx_model import OnnxModel
from latbench.profilers import Flush, Profiler, open_session

_MOST_DROPPED = 100  # successive visits: some seconds, in which a device may recover


def fraction_done(elapsed_s: float, left_s: float) -> float:
    """Fraction of the total time that has passed."""
    whole_s = elapsed_s + left_s
    return min(1.0, elapsed_s / whole_s) if whole_s > 0 else 0.0


@dataclass(frozen=True)
class Target:
    """A block (as a network of one block), a whole network or an ONNX model to visit.

    Attributes:
        id: Number under which the visits are stored.
        visits: Number of visits in a pass.
        dwell_ms: Duration of the hot calls.
        cold: Whether cold calls are made.
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
    """Target for a network: several long visits a pass, with hot calls only."""
    dwell_ms = protocol.network_dwell_ms
    return Target(target_id, network, visits=visits, dwell_ms=dwell_ms, cold=False)


@dataclass
class PassRecord:
    """One finished pass.

    Attributes:
        number: Number of the pass, from 0.
        visits: Target id and raw times, in the order of the visits.
        seconds: Wall time of the pass.
        open_s: Part of the wall time spent on opening and closing sessions.
        calls_s: Part of the wall time spent inside timed calls.
    """

    number: int
    visits: list[tuple[int, Visit]] = field(default_factory=list)
    seconds: float = 0.0
    open_s: float = 0.0
    calls_s: float = 0.0


def sweep_pass(
    profiler: Profiler,
    targets: Sequence[Target],
    *,
    number: int,
    may_skip: Callable[[int], bool] = lambda target_id: False,
    on_visit: Callable[[int, int], None] = lambda done, total: None,
) -> PassRecord:
    """Visit every target, in a random order that the number of the pass seeds.

    A visit that the profiler distrusts is dropped and repeated at the end of the pass.

    Args:
        profiler: Profiler that opens the sessions.
        targets: Targets to visit.
        number: Number of the pass, which seeds the order.
        may_skip: Whether the pass may leave out a target; called with its id before each visit.
        on_visit: Callback after each visit, with the number of finished visits and of all visits.

    Raises:
        RuntimeFailure: The runtime refused a target, or too many successive visits were dropped.
    """
    order = [target for target in targets for _ in range(target.visits)]
    shuffle = np.random.default_rng(number).permutation(len(order))
    flush, watch = profiler.cache_flusher(), profiler.watch()
    profiler.warm_up()
    record = PassRecord(number)
    dropped = 0  # successive dropped visits
    begin = perf_counter()
    collecting = gc.isenabled()
    gc.disable()  # a garbage collection inside a call would be timed
    try:
        queue = deque(order[index] for index in shuffle)
        while queue:
            target = queue.popleft()
            if may_skip(target.id):
                continue
            taken = _visit_target(profiler, target, record, flush=flush, watch=watch)
            reason = profiler.distrust()
            if reason is None:
                dropped = 0
                record.visits.append((target.id, taken))
                on_visit(len(record.visits), len(order))
                continue
            dropped += 1
            if dropped >= _MOST_DROPPED:
                raise RuntimeFailure(f"{dropped} visits in a row do not count: {reason}")
            queue.append(target)
    finally:
        if collecting:
            gc.enable()
    record.seconds = perf_counter() - begin
    return record


def _visit_target(
    profiler: Profiler,
    target: Target,
    record: PassRecord,
    *,
    flush: Flush,
    watch: Callable[[], None] | None,
) -> Visit:
    """Visit a target in a new session, and add the time that this took to the record."""
    opening = perf_counter()
    session = open_session(profiler, target.network)
    opened = perf_counter()
    taken = visit(
        session,
        profiler.profile.sweep,
        dwell_ms=target.dwell_ms,
        flush=flush if target.cold else None,
        watch=watch,
    )
    closing = perf_counter()
    session.close()
    record.open_s += opened - opening + perf_counter() - closing
    record.calls_s += taken.calls_ns / 1e9
    return taken
