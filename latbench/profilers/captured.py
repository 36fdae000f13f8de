"""CUDA graphs: captured work is launched at once instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from latbench.profilers.driver import CudaDriver, CudaError


class CapturedGraph:
    """The work that a call puts on a stream, captured as a graph.

    Args:
        driver: Driver of the GPU.
        stream: Handle of the stream. The default stream cannot be captured.
        enqueue: Function that puts the work on the stream. It must have been called before,
            because one-time loading and allocation cannot be captured.

    Raises:
        RuntimeFailure: The work cannot be captured, for example because it waits for the GPU.
    """

    def __init__(self, driver: CudaDriver, stream: int, enqueue: Callable[[], object]) -> None:
        self._driver, self._stream = driver, stream
        driver.begin_capture(stream)
        try:
            enqueue()
        except BaseException:
            with suppress(CudaError):  # the error that is being raised gives the cause
                driver.destroy_graph(driver.end_capture(stream))
            raise
        self._executable = driver.end_capture(stream)

    def launch(self) -> None:
        """Enqueue the work."""
        self._driver.launch_graph(self._executable, self._stream)

    def close(self) -> None:
        """Free the graph."""
        self._driver.destroy_graph(self._executable)
