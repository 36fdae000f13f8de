"""CUDA as profilers share it: a stream with its clock, and the L2 cache.

Through PyCUDA, in the primary context of the first GPU: the one that inference runtimes use.
PyTorch has all of it on its own (``latbench.profilers.pytorch_cuda``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from latbench.profilers.base import missing_package
from latbench.profilers.gpu import no_gpu


def no_cuda() -> str | None:
    """Why nothing can be measured on CUDA by way of PyCUDA, or None if it can."""
    return no_gpu() or missing_package("pycuda", "PyCUDA", "cuda") or no_nvml()


def no_nvml() -> str | None:
    """Why the GPU's clocks cannot be read, or None if they can."""
    return missing_package("pynvml", "nvidia-ml-py", "gpu")


def cuda_driver() -> Any:
    """PyCUDA's driver interface, with the primary context current."""
    import pycuda.autoprimaryctx  # makes the context current
    import pycuda.driver

    return pycuda.driver


class CudaStream:
    """A stream, and the two events that tell what was put on it took."""

    def __init__(self) -> None:
        driver = cuda_driver()
        self._stream = driver.Stream()
        self._begin, self._end = driver.Event(), driver.Event()

    @property
    def handle(self) -> int:
        """The stream as runtimes take it."""
        return int(self._stream.handle)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def timed_ns(self, enqueue: Callable[[], None]) -> int:
        """What ``enqueue`` puts on the stream takes, in ns, by the GPU's clock."""
        self._begin.record(self._stream)
        enqueue()
        self._end.record(self._stream)
        self._end.synchronize()
        taken_ms: float = self._begin.time_till(self._end)
        return round(taken_ms * 1e6)


class CudaFlusher:
    """Evicts the GPU's L2 cache by writing a buffer of its size."""

    def __init__(self) -> None:
        self._driver = driver = cuda_driver()
        device = driver.Context.get_device()
        self._size_bytes = int(device.get_attribute(driver.device_attribute.L2_CACHE_SIZE))
        self._buffer = driver.mem_alloc(self._size_bytes)

    def __call__(self) -> None:
        self._driver.memset_d8(self._buffer, 0, self._size_bytes)
        self._driver.Context.synchronize()  # writing memory may return before it is written
