"""The interleaved sweep: all targets are visited in turn, in shuffled passes.

A shared machine changes its state several times a second. Targets that are measured minutes apart
cannot be compared, but targets that are visited in turn can. Every visit opens a new session,
because the placement of a session in memory changes its latency and stays the same while it is
open. New sessions average over this effect. They also limit the memory of a sweep to one network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter, sleep

import numpy as np

from latbench.conditions import Conditions
from latbench.errors import RuntimeFailure
from latbench.measure.visit import Visit
from latbench.measure.visiting import MadeVisit, Target, make_visits
from latbench.profilers import Profiler

_MOST_DROPPED = 100  # successive visits: some seconds, in which a device may recover
_MOST_SPOILT = 3  # successive passes of a throttled device; it may never be cooler
_COOLING_S = 10.0


def fraction_done(elapsed_s: float, left_s: float) -> float:
    """Fraction of the total time that has passed."""
    whole_s = elapsed_s + left_s
    return min(1.0, elapsed_s / whole_s) if whole_s > 0 else 0.0


@dataclass
class PassRecord:
    """One finished pass.

    Attributes:
        number: Number of the pass, from 0.
        visits: Target id and raw times, in the order of the visits.
        seconds: Wall time of the pass.
        open_s: Part of the wall time spent on opening and closing sessions.
        calls_s: Part of the wall time spent inside timed calls.
        conditions: Conditions of the device after the pass.
        spoilt: Reason why the device was slower than usual; None if it was not.
    """

    number: int
    visits: list[tuple[int, Visit]] = field(default_factory=list)
    seconds: float = 0.0
    open_s: float = 0.0
    calls_s: float = 0.0
    conditions: Conditions = field(default_factory=Conditions)
    spoilt: str | None = None

    def add(self, target: Target, made: MadeVisit) -> None:
        """Add a visit that counts."""
        self.visits.append((target.id, made.visit))
        self.open_s += made.open_s
        self.calls_s += made.visit.calls_ns / 1e9


def sweep_pass(
    profiler: Profiler,
    targets: Sequence[Target],
    *,
    number: int,
    may_skip: Callable[[int], bool] = lambda target_id: False,
    on_visit: Callable[[int, int], None] = lambda done, total: None,
) -> PassRecord:
    """Visit every target, in a random order that the number of the pass seeds.

    A visit that the profiler distrusts is dropped and repeated at the end of the pass. A pass in
    which the processors were throttled is made again after a pause; the last of some such passes is
    kept, with the reason, unless it left out targets of the one before. Passes after it are not
    made again until one was not throttled: a board with a weak power supply would wait for ever.

    Args:
        profiler: Profiler of the device.
        targets: Targets to visit.
        number: Number of the pass, which seeds the order.
        may_skip: Whether the pass may leave out a target; called with its id before each visit.
        on_visit: Callback after each visit, with the number of finished visits and of all visits.

    Raises:
        RuntimeFailure: The runtime refused a target, or too many successive visits were dropped.
    """
    order = [target for target in targets for _ in range(target.visits)]
    shuffle = np.random.default_rng(number).permutation(len(order))
    shuffled = [order[index] for index in shuffle]
    record: PassRecord | None = None
    for attempt in range(_MOST_SPOILT if profiler.spoilt is None else 1):
        if attempt:
            sleep(_COOLING_S)
        before = profiler.begin()
        made = _visit_all(profiler, shuffled, number, may_skip, on_visit)
        made.conditions = profiler.conditions()
        if profiler.profile.device == "cpu":
            made.spoilt = made.conditions.spoilt_since(before)
        if record is not None and len(made.visits) < len(record.visits):
            break  # the time was up: the throttled pass is more than nothing
        record = made
        if record.spoilt is None:
            break
    assert record is not None
    profiler.spoilt = record.spoilt
    return record


def _visit_all(
    profiler: Profiler,
    targets: Sequence[Target],
    number: int,
    may_skip: Callable[[int], bool],
    on_visit: Callable[[int, int], None],
) -> PassRecord:
    """Visit targets in their order, and those whose visits do not count once more at the end."""
    queue = deque(targets)

    def pending() -> Iterator[Target]:
        while queue:
            target = queue.popleft()
            if not may_skip(target.id):
                yield target

    record = PassRecord(number)
    dropped = 0  # successive dropped visits
    begin = perf_counter()
    while queue:
        with closing(make_visits(profiler, pending())) as visits:
            for target, made in visits:
                if made.distrust is None:
                    dropped = 0
                    record.add(target, made)
                    on_visit(len(record.visits), len(targets))
                    continue
                dropped += 1
                if dropped >= _MOST_DROPPED:
                    raise RuntimeFailure(f"{dropped} visits in a row do not count: {made.distrust}")
                queue.append(target)
    record.seconds = perf_counter() - begin
    return record
