"""What a call takes on a GPU, by one of two clocks, for every runtime.

- ``gpu``: the GPU's work alone, between two events on the stream. A gate holds the stream while
  the call is enqueued, so that gaps between launches do not count.
- ``host``: from the call until its result is there, by the processor's clock: what a program
  waits for that has one image and needs the answer. Launching counts.

Before a cold call the L2 cache is evicted by writing a buffer of its size, on the same stream:
behind the gate with the GPU's clock, waited for with the processor's.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from latbench.device import Clock
from latbench.profilers.captured import CapturedGraph
from latbench.profilers.driver import CudaDriver, CudaError
from latbench.profilers.gate import Gate

Enqueue = Callable[[], object]
"""Puts a call's work on the stream."""

_TRIES = 3  # a busy machine may stop a process for longer than a gate holds, but not each time
_WRITES_AT_ONCE = 32  # between two looks at the clock while warming up: about a millisecond


class GpuTimer:
    """One stream of the GPU, and how calls on it are timed.

    Attributes:
        stream: The stream's handle.
        remarks: What could not be done as asked, in whole sentences: it belongs in the table.

    Args:
        driver: Of the GPU, entered.
        stream: Handle of the stream that the runtime computes on.
        clock: Which clock times a call.

    Raises:
        RuntimeFailure: The GPU has no room, or cannot be used.
    """

    def __init__(self, driver: CudaDriver, stream: int, *, clock: Clock) -> None:
        self._driver, self.stream, self._clock = driver, stream, clock
        self._begin, self._end = driver.event(), driver.event()
        self._l2_bytes = driver.l2_bytes
        self._buffer = driver.allocate(self._l2_bytes)
        self._flush_next = False
        self.remarks: list[str] = []
        self._gate: Gate | None = None
        if clock == "gpu":
            try:
                self._gate = Gate(driver, stream)
            except CudaError as error:
                self._ungated(f"the driver cannot run the gate ({error.message})")

    def call(self, enqueue: Enqueue) -> None:
        """Call, and wait for the result."""
        enqueue()
        self._driver.synchronize(self.stream)

    def timed_ns(self, enqueue: Enqueue) -> int:
        """What a call takes, in ns, by the clock that was asked for."""
        return self.gpu_ns(enqueue) if self._clock == "gpu" else self.host_ns(enqueue)

    def gpu_ns(self, enqueue: Enqueue) -> int:
        """What the GPU works on a call, in ns, by its own clock.

        The call must have been made once before, or the gate would hold the loading of its kernels.
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
        """What a program waits for a call, in ns, by the processor's clock."""
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
        """The work of a call that has been made before as a graph.

        Raises:
            RuntimeFailure: The work cannot be captured.
        """
        return CapturedGraph(self._driver, self.stream, enqueue)

    def remark(self, sentence: str) -> None:
        """Note what could not be done as asked, once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def flush_next(self) -> None:
        """Have the L2 cache evicted before the next timed call, on its stream."""
        self._flush_next = True

    def warm_up(self, least_ms: float) -> None:
        """Keep the GPU at work for a while: an idle one lowers its clock."""
        until = perf_counter_ns() + int(least_ms * 1e6)
        while perf_counter_ns() < until:
            for _ in range(_WRITES_AT_ONCE):
                self._evict()
            self._driver.synchronize(self.stream)

    def _gated_ns(self, enqueue: Enqueue, gate: Gate, *, cold: bool) -> int | None:
        """As ``gpu_ns``; None if the gate gave up, and gaps may have been counted."""
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
