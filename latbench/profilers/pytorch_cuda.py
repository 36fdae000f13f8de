"""PyTorch's sessions on a GPU: a captured CUDA graph, timed by events on a stream of its own.

A program that cares for latency replays a graph, because launching the kernels of a small network
one by one takes longer than computing them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latbench.errors import RuntimeFailure
from latbench.profilers.base import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

_CALLS_BEFORE_CAPTURE = 3  # as PyTorch's notes on CUDA graphs do; cuDNN chooses its kernels in them


class PytorchCudaSession(Session):
    """A module and its image on the first GPU.

    Args:
        module: On the GPU, in evaluation mode.
        image: On the GPU.
        cuda_graph: Capture the calls into a graph and replay that.
    """

    def __init__(self, module: nn.Module, image: Tensor, *, cuda_graph: bool) -> None:
        import torch

        self._inference_mode = torch.inference_mode
        self._cuda: Any = torch.cuda  # parts of it have no types
        self._module, self._image = module, image
        self._stream = self._cuda.Stream()
        self._begin = self._cuda.Event(enable_timing=True)
        self._end = self._cuda.Event(enable_timing=True)
        self._stream.wait_stream(self._cuda.current_stream())  # on which weights were copied
        self._enqueue: Callable[[], None] = self._compute
        for _ in range(_CALLS_BEFORE_CAPTURE):
            self.call()
        if cuda_graph:
            graph = self._cuda.CUDAGraph()
            with self._cuda.graph(graph, stream=self._stream):
                self._compute()
            self._enqueue = graph.replay

    def call(self) -> None:
        with self._cuda.stream(self._stream):
            self._enqueue()
        self._stream.synchronize()

    def timed_call(self) -> int:
        with self._cuda.stream(self._stream):
            self._begin.record(self._stream)
            self._enqueue()
            self._end.record(self._stream)
        self._end.synchronize()
        taken_ms: float = self._begin.elapsed_time(self._end)
        return round(taken_ms * 1e6)

    def output(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._output.float().cpu().numpy()
        return values

    def close(self) -> None:
        del self._enqueue, self._module, self._image, self._output

    def _compute(self) -> None:
        try:
            with self._inference_mode():
                self._output = self._module(self._image)
        except Exception as error:  # layers raise RuntimeError, the compiler its own
            raise RuntimeFailure(f"PyTorch refused the network: {error}") from error


class PytorchFlusher:
    """Evicts the GPU's L2 cache by writing a buffer of its size."""

    def __init__(self) -> None:
        import torch

        self._wait = torch.cuda.synchronize
        size_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        self._buffer = torch.empty(size_bytes, dtype=torch.uint8, device="cuda")

    def __call__(self) -> None:
        self._buffer.zero_()
        self._wait()
