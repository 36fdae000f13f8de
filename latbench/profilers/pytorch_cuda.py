"""Sessions of PyTorch on a GPU: a captured CUDA graph on the profiler's stream.

Programs that need a low latency replay a graph, because launching the kernels of a small network
one by one takes longer than computing them.

Graphs are captured by ``CUDAGraph`` itself: ``torch.cuda.graph`` collects garbage and empties the
allocator's cache before each capture, and a sweep captures thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latbench.errors import RuntimeFailure
from latbench.profilers.base import Session
from latbench.profilers.driver import GPU_INDEX, cuda_driver
from latbench.profilers.timer import GpuTimer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_CALLS_BEFORE_CAPTURE = 3  # as PyTorch's notes on CUDA graphs do; cuDNN chooses its kernels in them


class PytorchStream:
    """The stream that all sessions of a profiler compute on, and the memory of their graphs.

    Sessions are used one after another: graphs share memory, so that a session's output must be
    read before another session is called.
    """

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._cuda: Any = torch.cuda  # parts of it have no types
        self.device = torch.device("cuda", GPU_INDEX)
        self._cuda.set_device(self.device)
        self._stream = self._cuda.Stream(self.device)
        self._owner: Any = None

    @property
    def handle(self) -> int:
        """Handle of the stream for the driver."""
        return int(self._stream.cuda_stream)

    def enter(self) -> None:
        """Make this the current stream of PyTorch."""
        self._cuda.set_stream(self._stream)

    def capture(self, compute: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Capture the work of ``compute`` as a graph, which is replayed on the current stream.

        ``compute`` must have been called before, because one-time loading cannot be captured.
        """
        if self._owner is None:  # PyTorch drops a pool of memory with the last graph that uses it
            self._owner = self._captured(lambda: self._torch.zeros(1, device=self.device), None)
        return self._captured(compute, self._owner.pool())

    def release_memory(self) -> None:
        """Give the memory of closed sessions back to the GPU."""
        self._owner = None
        self._cuda.empty_cache()

    def _captured(self, compute: Callable[[], object], pool: Any) -> torch.cuda.CUDAGraph:
        graph = self._cuda.CUDAGraph()
        self.enter()
        self._stream.synchronize()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            compute()
        except BaseException:
            with suppress(RuntimeError):  # the error that is being raised gives the cause
                graph.capture_end()
            raise
        graph.capture_end()
        return graph  # type: ignore[no-any-return]


class PytorchCudaSession(Session):
    """A module and its image on the GPU.

    Args:
        module: Module on the GPU, in evaluation mode.
        image: Image on the GPU.
        stream: Stream that was current when module and image were made.
        timer: Timer of that stream.
        cuda_graph: Whether to capture the calls into a graph and replay it.

    Raises:
        RuntimeFailure: PyTorch refused the network or cannot capture it.
        torch.OutOfMemoryError: The GPU has no room.
    """

    def __init__(
        self,
        module: nn.Module,
        image: Tensor,
        stream: PytorchStream,
        timer: GpuTimer,
        *,
        cuda_graph: bool,
    ) -> None:
        import torch

        self._inference_mode = torch.inference_mode
        self._module, self._image, self._stream, self._timer = module, image, stream, timer
        for _ in range(_CALLS_BEFORE_CAPTURE):
            timer.call(self._compute)
        enqueue: Callable[[], None] = self._compute
        if cuda_graph:
            enqueue = stream.capture(self._compute).replay
            timer.call(enqueue)  # the first launch of a graph uploads it
        self._enqueue = enqueue

    def call(self) -> None:
        self._stream.enter()
        with refusals():
            self._timer.call(self._enqueue)

    def timed_call(self) -> int:
        self._stream.enter()
        with refusals():
            return self._timer.timed_ns(self._enqueue)

    def output(self) -> NDArray[np.float32]:
        self._stream.enter()
        values: NDArray[np.float32] = self._output.float().cpu().numpy()
        return values

    def close(self) -> None:
        del self._enqueue, self._module, self._image, self._output

    def _compute(self) -> None:
        with self._inference_mode():
            self._output = self._module(self._image)


@contextmanager
def refusals() -> Iterator[None]:
    """Translate the errors of PyTorch; layers raise RuntimeError, the compiler other classes."""
    import torch

    try:
        yield
    except RuntimeFailure:
        raise
    except torch.OutOfMemoryError as error:
        raise RuntimeFailure(
            f"PyTorch refused the network: the GPU has no room for it; {cuda_driver().room()}"
        ) from error
    except Exception as error:
        why = cuda_driver().why_lost() or str(error).strip().split("\n", maxsplit=1)[0]
        raise RuntimeFailure(f"PyTorch refused the network: {why}") from error
