"""The GPU that a profiler measures on: its stream, its timer and its clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from latbench.device import DeviceProfile
from latbench.environment import Gpu
from latbench.profilers.driver import cuda_driver
from latbench.profilers.gpu import ClockWatch, read_gpu
from latbench.profilers.timer import GpuTimer

_WARM_UP_MS = 200.0  # a GPU takes some tenths of a second from its idle clock to its highest


class MeasuredGpu:
    """One GPU under one device profile. The GPU is not used before the first method call.

    Args:
        profile: Device profile, which names the clock for calls and the lowest GPU clock.
        open_stream: Function that makes the stream of the runtime and returns its handle.
    """

    def __init__(self, profile: DeviceProfile, open_stream: Callable[[], int]) -> None:
        self._profile, self._open_stream = profile, open_stream
        self.watch = ClockWatch(profile.sweep.least_clock)

    @cached_property
    def timer(self) -> GpuTimer:
        """Timer of calls on the stream.

        Raises:
            RuntimeFailure: The GPU has no room, or cannot be used.
        """
        driver = cuda_driver()
        driver.enter()
        return GpuTimer(driver, self._open_stream(), clock=self._profile.clock or "gpu")

    @property
    def remarks(self) -> list[str]:
        """Requests that could not be followed so far."""
        return list(self.timer.remarks)

    def flush(self) -> None:
        """Evict the L2 cache before the next timed call."""
        self.timer.flush_next()

    def warm_up(self) -> None:
        """Bring the GPU to its clock under load."""
        self.timer.warm_up(_WARM_UP_MS)

    def record(self) -> Gpu:
        """State of the GPU under load."""
        return read_gpu(self.warm_up)
