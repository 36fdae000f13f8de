"""The CUDA driver, called with ctypes: all functions that measuring on a GPU needs.

``libcuda.so.1`` comes with every NVIDIA driver, also on Jetson, and its symbols are stable, so no
package has to be installed. PyCUDA cannot capture graphs, and cuda-bindings would be another
package whose version must match the driver. The runtimes provide their streams as numbers.

All functions use the first GPU that CUDA shows; ``CUDA_VISIBLE_DEVICES`` chooses another one.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_float,
    c_int,
    c_size_t,
    c_ubyte,
    c_uint,
    c_uint64,
    c_void_p,
    create_string_buffer,
)
from functools import cached_property, lru_cache
from typing import Any

from latbench.errors import RuntimeFailure

GPU_INDEX = 0
"""Index of the measured GPU in CUDA's order; every runtime and NVML use the same GPU."""

_CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetPCIBusId": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemsetD8Async": (c_uint64, c_ubyte, c_size_t, c_void_p),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemHostGetDevicePointer_v2": (POINTER(c_uint64), c_void_p, c_uint),
    "cuModuleLoadData": (POINTER(c_void_p), c_char_p),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, POINTER(c_void_p), c_void_p),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
}
_OUT_OF_MEMORY = 2
# after these errors every further call of the process fails: the GPU or its context is lost
_LOST = {46, 100, 214, 220, 226, 700, 702, 709, 714, 715, 716, 717, 718, 719, 721, 999}

_L2_CACHE_SIZE = 38  # CU_DEVICE_ATTRIBUTE_*
_MAPPED = 0x02  # CU_MEMHOSTALLOC_DEVICEMAP
_NON_BLOCKING = 0x1  # CU_STREAM_NON_BLOCKING: it does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads are not restricted
_NAME_BYTES = 256


class CudaError(RuntimeFailure):
    """A call of the driver failed.

    Attributes:
        code: ``CUresult`` of the driver.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class CudaDriver:
    """Calls of the driver for one GPU, in its primary context, which all runtimes share.

    Args:
        library: Loaded ``libcuda.so.1``.

    Raises:
        CudaError: There is no GPU, or it cannot be used.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, types in _CALLS.items():
            getattr(library, name).argtypes = types
        self._do("cuInit", 0)
        count = c_int(0)
        self._do("cuDeviceGetCount", byref(count))
        if count.value == 0:
            raise CudaError("it finds no GPU", code=100)
        self._device = c_int()
        self._do("cuDeviceGet", byref(self._device), GPU_INDEX)

    @property
    def name(self) -> str:
        """Model name of the GPU; for a MIG slice, it includes the profile of the slice."""
        name = create_string_buffer(_NAME_BYTES)
        self._do("cuDeviceGetName", name, _NAME_BYTES, self._device)
        return name.value.decode()

    @property
    def cuda_version(self) -> str:
        """Version of CUDA that the driver supports, such as 13.0."""
        version = c_int()
        self._do("cuDriverGetVersion", byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    @property
    def pci_bus_id(self) -> str:
        """PCI address of the GPU, such as ``0000:65:00.0``, because NVML has another order."""
        bus_id = create_string_buffer(_NAME_BYTES)
        self._do("cuDeviceGetPCIBusId", bus_id, _NAME_BYTES, self._device)
        return bus_id.value.decode()

    @property
    def l2_bytes(self) -> int:
        """Size of the L2 cache, or of a MIG slice's part of it, in bytes."""
        size = c_int()
        self._do("cuDeviceGetAttribute", byref(size), _L2_CACHE_SIZE, self._device)
        return size.value

    @cached_property
    def l2_buffer(self) -> int:
        """Address of a buffer as large as the L2 cache, to evict it by writing; one a process."""
        return self.allocate(self.l2_bytes)

    def enter(self) -> None:
        """Make the primary context current in the calling thread."""
        context = c_void_p()
        self._do("cuDevicePrimaryCtxRetain", byref(context), self._device)
        self._do("cuCtxSetCurrent", context)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory of the GPU, in bytes."""
        free, total = c_size_t(), c_size_t()
        self._do("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def allocate(self, size_bytes: int) -> int:
        """Allocate memory of the GPU and return its address."""
        address = c_uint64()
        self._do("cuMemAlloc_v2", byref(address), size_bytes)
        return address.value

    def free(self, address: int) -> None:
        """Free memory of the GPU."""
        self._do("cuMemFree_v2", address)

    def clear(self, address: int, size_bytes: int, stream: int) -> None:
        """Enqueue writing zeros to memory of the GPU."""
        self._do("cuMemsetD8Async", address, 0, size_bytes, stream)

    def shared_words(self, count: int) -> tuple[Any, int]:
        """Allocate 32-bit words that processor and GPU share; return the array and GPU address."""
        host, device = c_void_p(), c_uint64()
        self._do("cuMemHostAlloc", byref(host), 4 * count, _MAPPED)
        self._do("cuMemHostGetDevicePointer_v2", byref(device), host, 0)
        assert host.value is not None
        words = (c_uint * count).from_address(host.value)
        words[:] = [0] * count
        return words, device.value

    def load_kernel(self, ptx: bytes, name: str) -> int:
        """Load a kernel of a PTX module, which the driver compiles for this GPU."""
        module, kernel = c_void_p(), c_void_p()
        self._do("cuModuleLoadData", byref(module), ptx)
        self._do("cuModuleGetFunction", byref(kernel), module, name.encode())
        assert kernel.value is not None
        return kernel.value

    def launch(self, kernel: int, arguments: tuple[Any, ...], stream: int) -> None:
        """Enqueue one thread of a kernel, with ctypes values as its arguments."""
        addresses = (c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._do("cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, stream, addresses, None)

    def event(self) -> int:
        """Create an event that records the time."""
        event = c_void_p()
        self._do("cuEventCreate", byref(event), 0)
        assert event.value is not None
        return event.value

    def record(self, event: int, stream: int) -> None:
        """Enqueue the recording of the time in an event."""
        self._do("cuEventRecord", event, stream)

    def between_ns(self, begin: int, end: int) -> int:
        """Time between two recorded events, in ns; the driver's resolution is some 0.5 µs."""
        taken_ms = c_float()
        self._do("cuEventElapsedTime", byref(taken_ms), begin, end)
        return round(taken_ms.value * 1e6)

    def new_stream(self) -> int:
        """Create a stream, which exists until the process ends."""
        stream = c_void_p()
        self._do("cuStreamCreate", byref(stream), _NON_BLOCKING)
        assert stream.value is not None
        return stream.value

    def synchronize(self, stream: int) -> None:
        """Wait until all work of a stream is done."""
        self._do("cuStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        """Begin a capture: work put on the stream is recorded and not executed."""
        self._do("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """End a capture and return the recorded work as a graph that can be launched."""
        graph, executable = c_void_p(), c_void_p()
        self._do("cuStreamEndCapture", stream, byref(graph))
        try:
            self._do("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
        finally:
            self._do("cuGraphDestroy", graph)
        assert executable.value is not None
        return executable.value

    def launch_graph(self, executable: int, stream: int) -> None:
        """Enqueue a graph."""
        self._do("cuGraphLaunch", executable, stream)

    def destroy_graph(self, executable: int) -> None:
        """Free a graph."""
        self._do("cuGraphExecDestroy", executable)

    def _do(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise CudaError(self._words(name, code), code)

    def _words(self, name: str, code: int) -> str:
        text = c_char_p()
        self._library.cuGetErrorString(c_int(code), byref(text))
        said = (text.value or b"no words for it").decode("utf-8", "replace")
        what = f"{said} (CUDA error {code} of {name})"
        if code == _OUT_OF_MEMORY:
            return f"the GPU has no room: {what}; {self.room()}"
        if code in _LOST:
            return (
                f"the GPU can be used no longer: {what}; look at `nvidia-smi` and at `dmesg | grep "
                "-i xid`, then run the same command again: what was measured before is kept"
            )
        return f"the NVIDIA driver refused: {what}"

    def why_lost(self) -> str | None:
        """Reason why the GPU can no longer be used, for errors of runtimes; None if it can."""
        try:
            self._do("cuCtxSynchronize")
        except CudaError as error:
            return error.message if error.code in _LOST else None
        return None

    def room(self) -> str:
        """Free and total memory of the GPU in words, and what to do if it is too little."""
        free, total = c_size_t(), c_size_t()
        self._library.cuMemGetInfo_v2(byref(free), byref(total))
        return (
            f"{free.value >> 20} of {total.value >> 20} MiB are free: end other processes on it "
            "(`nvidia-smi` lists them) or use a profile of a smaller batch"
        )


@lru_cache(maxsize=1)
def cuda_driver() -> CudaDriver:
    """Load the driver for the first GPU that CUDA shows.

    Raises:
        RuntimeFailure: There is no driver or no GPU, or it cannot be used.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeFailure("there is no NVIDIA driver (libcuda.so.1)") from error
    return CudaDriver(library)
