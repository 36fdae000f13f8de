"""TensorRT on CUDA: sessions, and how their calls are made and timed.

Options:

- ``cuda_graph``: calls are captured once and replayed; ``"true"`` unless given. A network that
  TensorRT does not let be captured is computed layer by layer, and the table says so.
- ``optimization_level``: 0 to 5, how long TensorRT looks for fast kernels; ``"3"`` unless given.
- ``tf32``: layers in fp32 may compute in TF32; ``"false"`` unless given.

Written to the documentation of TensorRT 10.13 and 11.4, and not run on a GPU yet.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network
from latbench.blocks.graph import INPUT
from latbench.device import DeviceProfile, Precision
from latbench.errors import RuntimeFailure, in_one_line
from latbench.profilers.base import Profiler, Session, missing_package, read_options
from latbench.profilers.captured import CapturedGraph
from latbench.profilers.cuda import no_pycuda, pycuda_driver
from latbench.profilers.driver import cuda_driver
from latbench.profilers.tensorrt_engines import Engines, chosen_layout
from latbench.profilers.timer import GpuTimer
from latbench.render.onnx import ELEMENT_TYPES, OUTPUT
from latbench.render.parameters import random_input

if TYPE_CHECKING:
    import tensorrt as trt


class TensorrtOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of ``[options]``."""

    cuda_graph: bool = True
    optimization_level: Annotated[int, msgspec.Meta(ge=0, le=5)] = 3
    tf32: bool = False


class TensorrtSession(Session):
    """An execution context, with input and output in the GPU's memory."""

    def __init__(
        self, engine: trt.ICudaEngine, precision: Precision, timer: GpuTimer, *, cuda_graph: bool
    ) -> None:
        self._driver, self._timer = pycuda_driver(), timer
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeFailure("TensorRT refused the network: the GPU has no room for it")
        self._buffers: list[Any] = []
        layout = chosen_layout(engine, INPUT, precision)
        image = layout.pack(random_input(layout.shape).astype(ELEMENT_TYPES[precision]))
        self._driver.memcpy_htod(self._bind(INPUT, image.nbytes), image)
        self._layout = chosen_layout(engine, OUTPUT, precision)
        self._packed = np.empty(self._layout.packed_shape, ELEMENT_TYPES[precision])
        self._out = self._bind(OUTPUT, self._packed.nbytes)
        # what is loaded at the first call can be neither held nor captured
        timer.call(self._execute)
        self._graph = self._captured() if cuda_graph else None

    def call(self) -> None:
        self._timer.call(self._enqueue)

    def timed_call(self) -> int:
        return self._timer.timed_ns(self._enqueue)

    def output(self) -> NDArray[np.float32]:
        self._driver.memcpy_dtoh(self._packed, self._out)
        return self._layout.unpack(self._packed).astype(np.float32)

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        del self._graph, self._context, self._engine
        for buffer in self._buffers:
            buffer.free()

    def _bind(self, name: str, size_bytes: int) -> Any:
        buffer = self._driver.mem_alloc(size_bytes)
        self._buffers.append(buffer)
        if not self._context.set_tensor_address(name, int(buffer)):
            raise RuntimeFailure(f"TensorRT refused the memory of the network's {name}")
        return buffer

    def _captured(self) -> CapturedGraph | None:
        try:
            graph = self._timer.captured(self._execute)
        except RuntimeFailure as error:
            self._timer.remark(
                "Some networks were computed layer by layer, not as CUDA graphs: TensorRT could "
                f"not be captured ({error.message})."
            )
            return None
        self._timer.call(graph.launch)  # the first launch of a graph uploads it
        return graph

    def _enqueue(self) -> None:
        if self._graph is None:
            self._execute()
        else:
            self._graph.launch()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._timer.stream):
            raise RuntimeFailure("TensorRT refused to compute the network")


class TensorrtProfiler(Profiler):
    """Measures under TensorRT."""

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        self.options = read_options(profile, TensorrtOptions)

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        if profile.device != "cuda":
            return "TensorRT measures on cuda"
        return no_pycuda() or missing_package("tensorrt", "TensorRT", "tensorrt")

    def open(self, network: Network) -> Session:
        assert self.gpu is not None, "the profile is of cuda"
        driver = pycuda_driver()
        try:
            return TensorrtSession(
                self._engines.of(network),
                self.profile.precision,
                self.gpu.timer,
                cuda_graph=self.options.cuda_graph,
            )
        except driver.MemoryError as error:
            raise RuntimeFailure(
                f"TensorRT refused the network: the GPU has no room for it; {cuda_driver().room()}"
            ) from error
        except driver.Error as error:
            why = cuda_driver().why_lost() or in_one_line(error)
            raise RuntimeFailure(f"TensorRT refused the network: {why}") from error

    def stream(self) -> int:
        return int(self._stream.handle)

    def versions(self) -> dict[str, str]:
        import tensorrt as trt

        return {"tensorrt": trt.__version__, "numpy": np.__version__}

    @cached_property
    def _engines(self) -> Engines:
        return Engines(
            self.profile.precision,
            batch_size=self.profile.batch_size,
            optimization_level=self.options.optimization_level,
            tf32=self.options.tf32,
        )

    @cached_property
    def _stream(self) -> Any:
        return pycuda_driver().Stream()
