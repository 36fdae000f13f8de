"""PyTorch in eager mode: layers are called from Python one after another.

Options:

- ``channels_last``: images and weights lie in memory channels last, which PyTorch advises for
  convolutions; ``"true"`` unless given.
- ``compile``: ``"true"`` compiles whole networks with ``torch.compile`` when they are opened.
  Compiling takes seconds to minutes a network. Single blocks are therefore not compiled. The
  option is meant for comparing a few networks, not for a sweep over a space.
- ``cuda_graph``, on CUDA: calls are captured once and replayed; ``"true"`` unless given. A
  network whose calls cannot be captured is refused.
- ``cudnn_benchmark``, on CUDA: cuDNN tries its algorithms once for every shape and keeps the
  fastest; ``"false"`` unless given, as in PyTorch. It takes some 60 ms a convolution, and may
  choose differently in the next process.
- ``tf32``, on CUDA: convolutions in fp32 may compute in TF32; ``"false"`` unless given.

Threads, the flushing of denormals, TF32 and the choice of cuDNN's kernels are settings of the
process. Opening a session changes them, and the end of ``settings`` restores them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network, network_graph
from latbench.blocks.norm_folding import fold_norms
from latbench.device import DeviceProfile
from latbench.errors import RuntimeFailure, in_one_line
from latbench.profilers.base import Profiler, Session, missing_package, read_options
from latbench.profilers.cuda import no_nvml
from latbench.profilers.gpu import no_gpu
from latbench.profilers.pytorch_cuda import PytorchCudaSession, PytorchStream, refusals
from latbench.render.parameters import random_input, random_parameters

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class PytorchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of ``[options]`` on the CPU."""

    channels_last: bool = True
    compile: bool = False


class PytorchCudaOptions(PytorchOptions, frozen=True, forbid_unknown_fields=True):
    """Options of ``[options]`` on CUDA."""

    cuda_graph: bool = True
    tf32: bool = False
    cudnn_benchmark: bool = False


def _refusal(error: Exception) -> RuntimeFailure:
    return RuntimeFailure(f"PyTorch refused the network: {in_one_line(error, most=300)}")


class PytorchSession(Session):
    """A module and its image."""

    def __init__(self, module: nn.Module, image: Tensor) -> None:
        import torch

        self._inference_mode = torch.inference_mode
        self._module, self._image = module, image
        self._output: Tensor | None = None

    def call(self) -> None:
        try:
            with self._inference_mode():
                self._output = self._module(self._image)
        except Exception as error:  # layers raise RuntimeError, the compiler its own
            raise _refusal(error) from error

    def output(self) -> NDArray[np.float32]:
        assert self._output is not None, "call first"
        values: NDArray[np.float32] = self._output.numpy()
        return values

    def close(self) -> None:
        del self._module, self._image, self._output


class PytorchProfiler(Profiler):
    """Measures under PyTorch."""

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        on_cuda = profile.device == "cuda"
        self.options = read_options(profile, PytorchCudaOptions if on_cuda else PytorchOptions)

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        missing = missing_package("torch", "PyTorch", "nas")
        if profile.device == "cuda":
            return no_gpu() or missing or no_nvml() or _no_cuda_build()
        if profile.precision != "fp32":
            return "on the CPU, the PyTorch profiler measures in fp32"
        return missing

    def open(self, network: Network) -> Session:
        self._set_up_process()
        if self.gpu is None:
            return self._open_on_cpu(network)
        import torch

        with refusals():
            with suppress(torch.OutOfMemoryError):
                return self._open_on_gpu(network)
            self._stream.release_memory()  # what closed sessions left may be in too small pieces
            return self._open_on_gpu(network)

    def stream(self) -> int:
        return self._stream.handle

    @cached_property
    def _stream(self) -> PytorchStream:
        return PytorchStream()

    def _open_on_cpu(self, network: Network) -> Session:
        import torch

        try:
            session = PytorchSession(*self._loaded(network, torch.device("cpu")))
        except RuntimeError as error:
            raise _refusal(error) from error
        if self._compiles(network):
            session.call()
        return session

    def _open_on_gpu(self, network: Network) -> Session:
        assert self.gpu is not None
        assert isinstance(self.options, PytorchCudaOptions)
        timer = self.gpu.timer
        self._stream.enter()
        module, image = self._loaded(network, self._stream.device)
        return PytorchCudaSession(
            module, image, self._stream, timer, cuda_graph=self.options.cuda_graph
        )

    def _loaded(self, network: Network, device: torch.device) -> tuple[nn.Module, Tensor]:
        """The network as a module and its image, on the device."""
        import torch

        element = torch.float16 if self.profile.precision == "fp16" else torch.float32
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        graph = fold_norms(network_graph(network))
        values = random_input((self.profile.batch_size, *graph.input_shape))
        image = torch.tensor(values).to(device, element).contiguous(memory_format=layout)
        module = _folded_module(network).to(device, element).to(memory_format=layout)
        if self._compiles(network):
            torch.compiler.reset()  # it would give up after eight networks of one class
            module.compile()
        return module, image

    def _compiles(self, network: Network) -> bool:
        return self.options.compile and len(network) > 1

    def versions(self) -> dict[str, str]:
        import torch

        found = {"pytorch": torch.__version__, "numpy": np.__version__}
        if self.profile.device == "cuda":
            backends: Any = torch.backends  # parts of it have no types
            try:
                cudnn = str(backends.cudnn.version())
            except RuntimeError as error:  # another runtime of this process brought another one
                raise RuntimeFailure(f"PyTorch cannot use cuDNN: {error}") from error
            found |= {"cuda": str(torch.version.cuda), "cudnn": cudnn}
        return found

    @contextmanager
    def settings(self) -> Iterator[None]:
        import torch

        backends: Any = torch.backends  # parts of it have no types
        cudnn, products = backends.cudnn, backends.cuda.matmul
        threads, flushes = torch.get_num_threads(), _flushes_denormals()
        before = cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(flushes)
            cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark = before

    def _set_up_process(self) -> None:
        import torch

        if torch.get_num_threads() != self.profile.threads:
            torch.set_num_threads(self.profile.threads)
        torch.set_flush_denormal(True)
        if isinstance(self.options, PytorchCudaOptions):
            backends: Any = torch.backends  # parts of it have no types
            # the older settings: torch keeps its newer ones equal to them, but not the reverse
            backends.cudnn.allow_tf32 = self.options.tf32
            backends.cuda.matmul.allow_tf32 = self.options.tf32
            backends.cudnn.benchmark = self.options.cudnn_benchmark


def _flushes_denormals() -> bool:
    """Whether results too small for a normal number are 0 in this thread; torch does not tell."""
    import torch

    return not float(torch.full((1,), 2.0**-126) * 0.5)


def _no_cuda_build() -> str | None:
    import torch

    if torch.cuda.is_available():
        return None
    return (
        f"PyTorch {torch.__version__} cannot use the GPU: install a build for CUDA that the driver "
        "supports, see pytorch.org"
    )


def _folded_module(network: Network) -> nn.Module:
    """The network as the sequence of its blocks, norms folded, with random weights.

    The sequence of folded graphs has the parameter names of the folded network's graph.
    """
    import torch

    from latbench.render.torch import folded_sequence

    weights = random_parameters(fold_norms(network_graph(network)))
    values = {name: torch.from_numpy(value) for name, value in weights.items()}  # shares its memory
    return folded_sequence((spec.graph() for spec in network), values)
