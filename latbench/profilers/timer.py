"""Duration of a call on a GPU, by one of two clocks, for every runtime.

- ``gpu``: the time of the GPU's work alone, between two events on the stream. A gate holds the
  stream while the call is enqueued, so that gaps between launches do not count.
- ``host``: the time from the call until its result is available, by the processor's clock. A
  program that processes one image and needs the result waits for this time. Launching counts.

Before a cold call, the L2 cache is evicted by writing a buffer of its size on the same stream. With
the GPU's clock, the writing is enqueued behind the gate; with the processor's clock, the timer
waits until it is finished.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from latbench.device import Clock
from latbench.profilers.captured import CapturedGraph
from latbench.profilers.driver import CudaDriver, CudaError
from latbench.profilers.gate import Gate

Enqueue = Callable[[], object]
"""Function that puts the work of a call on the stream."""

_TRIES = 3  # a busy machine may stop a process for longer than a gate holds, but not each time
_WRITES_AT_ONCE = 32  # between two looks at the clock while warming up: about a millisecond


class GpuTimer:
    """Timer of calls on one stream of the GPU.

    Attributes:
        stream: Handle of the stream.
        remarks: Requests that could not be followed, in whole sentences, for the table.

    Args:
        driver: Driver of the GPU, already entered.
        stream: Handle of the stream that the runtime computes on.
        clock: Clock that times a call.

    Raises:
        RuntimeFailure: The GPU has no room, or cannot be used.
    """

    def __init__(self, driver: CudaDriver, stream: int, *, clock: Clock) -> None:
        self._driver, self.stream, self._clock = driver, stream, clock
        self._begin, self._end = driver.event(), driver.event()
        self._l2_bytes = driver.l2_bytes
        self._buffer = driver.l2_buffer
        self._flush_next = False
        self.remarks: list[str] = []
        self._gate: Gate | None = None
        if clock == "gpu":
            try:
                self._gate = Gate(driver, stream)
            except CudaError as error:
                self._ungated(f"the driver cannot run the gate ({error.message})")

    def call(self, enqueue: Enqueue) -> None:
        """Make a call and wait for the result."""
        enqueue()
        self._driver.synchronize(self.stream)

    def timed_ns(self, enqueue: Enqueue) -> int:
        """Duration of a call in ns, by the clock of the profile."""
        return self.gpu_ns(enqueue) if self._clock == "gpu" else self.host_ns(enqueue)

    def gpu_ns(self, enqueue: Enqueue) -> int:
        """Time of the GPU's work for a call in ns, by the GPU's clock.

        The call must have been made once before; otherwise the gate would delay its loading.
        """
        cold, self._flush_next = self._flush_next, False
        for _ in range(_TRIES):
            if self._gate is None:
                break
            taken_ns = self._gated_ns(enqueue, self._gate, cold=cold)
            if taken_ns is not None:
                return taken_ns
        else:
            self._ungated("its calls wait for the GPU or launch for longer than a gate holds")
        self._enqueue_between_events(enqueue, cold=cold)
        self._driver.synchronize(self.stream)
        return self._driver.between_ns(self._begin, self._end)

    def host_ns(self, enqueue: Enqueue) -> int:
        """Time that a program waits for a call in ns, by the processor's clock."""
        if self._flush_next:
            self._flush_next = False
            self._evict()
            self._driver.synchronize(self.stream)
        synchronize, stream = self._driver.synchronize, self.stream
        start = perf_counter_ns()
        enqueue()
        synchronize(stream)
        return perf_counter_ns() - start

    def captured(self, enqueue: Enqueue) -> CapturedGraph:
        """Capture the work of a call, which must have been made before, as a graph.

        Raises:
            RuntimeFailure: The work cannot be captured.
        """
        return CapturedGraph(self._driver, self.stream, enqueue)

    def remark(self, sentence: str) -> None:
        """Add a remark, unless it is already there."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def flush_next(self) -> None:
        """Evict the L2 cache on the stream before the next timed call."""
        self._flush_next = True

    def warm_up(self, least_ms: float) -> None:
        """Keep the GPU at work for a while: an idle one lowers its clock."""
        until = perf_counter_ns() + int(least_ms * 1e6)
        while perf_counter_ns() < until:
            for _ in range(_WRITES_AT_ONCE):
                self._evict()
            self._driver.synchronize(self.stream)

    def _gated_ns(self, enqueue: Enqueue, gate: Gate, *, cold: bool) -> int | None:
        """Time as in ``gpu_ns``; None if the gate gave up, because gaps may then count."""
        try:
            gate.hold(self.stream)
            self._enqueue_between_events(enqueue, cold=cold)
        finally:
            gate.release()
        self._driver.synchronize(self.stream)
        return None if gate.gave_up else self._driver.between_ns(self._begin, self._end)

    def _enqueue_between_events(self, enqueue: Enqueue, *, cold: bool) -> None:
        if cold:
            self._evict()
        self._driver.record(self._begin, self.stream)
        enqueue()
        self._driver.record(self._end, self.stream)

    def _evict(self) -> None:
        self._driver.clear(self._buffer, self._l2_bytes, self.stream)

    def _ungated(self, why: str) -> None:
        self._gate = None
        self.remark(
            f"Latencies include gaps between launches: the stream was not held, because {why}."
        )
