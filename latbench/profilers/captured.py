"""Work captured as a CUDA graph: launched at once, instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from latbench.profilers.driver import CudaDriver, CudaError


class CapturedGraph:
    """What a call puts on a stream, as a graph.

    Args:
        driver: Of the GPU.
        stream: Handle of the stream; not the default one, which cannot be captured.
        enqueue: Puts the work on the stream. It must have been called before: what it loads or
            allocates once cannot be captured.

    Raises:
        RuntimeFailure: The work cannot be captured, such as what waits for the GPU.
    """

    def __init__(self, driver: CudaDriver, stream: int, enqueue: Callable[[], object]) -> None:
        self._driver, self._stream = driver, stream
        driver.begin_capture(stream)
        try:
            enqueue()
        except BaseException:
            with suppress(CudaError):  # the cause is told by the error in flight
                driver.destroy_graph(driver.end_capture(stream))
            raise
        self._executable = driver.end_capture(stream)

    def launch(self) -> None:
        """Enqueue the work."""
        self._driver.launch_graph(self._executable, self._stream)

    def close(self) -> None:
        """Free the graph."""
        self._driver.destroy_graph(self._executable)
