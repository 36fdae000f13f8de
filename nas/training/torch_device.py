"""The torch device, precision and memory format of a search or a training.

A workflow makes one ``TorchDevice`` from a name such as ``cuda:1`` and passes it on. It places
modules and batches, opens autocast and translates the device's errors. Other code never names a
device: it creates tensors on the device of its inputs.

Paths, orders and crops are drawn on the CPU, so one seed gives the same ones on every device.
Dropped features and images are drawn on the device.

On CUDA, ``fp32`` keeps torch's own setting: convolutions may round their factors to TF32, matrix
products may not. ``tf32`` allows both to do so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from latbench.errors import InvalidValueError, TorchDeviceError
from nas.recipes import Precision

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # types of autocast
# errors of a device, by their types and by words in their messages
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
_FAILURES = ("CUDA error", "cuDNN error", "unable to find an engine", "MPS backend")
_LEFT_ALONE = ("NCCL error", "Connection closed by peer", "Connection reset by peer")
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory", "ALLOC_FAILED")

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TorchDevice:
    """A torch device with a precision and a memory format.

    Attributes:
        device: Device of modules and batches.
        precision: Type of products and convolutions. With ``bf16`` and ``fp16`` they compute under
            autocast; weights, norms and sums stay in single precision. ``tf32`` is for CUDA.
        memory_format: Layout of images and of the weights of convolutions.

    Raises:
        InvalidValueError: The device does not support this precision.
    """

    device: torch.device
    precision: Precision = "fp32"
    memory_format: torch.memory_format = torch.channels_last

    def __post_init__(self) -> None:
        if self.precision == "tf32" and self.device.type != "cuda":
            raise InvalidValueError(
                f"precision tf32 is for CUDA GPUs, and this is {self.device}: choose fp32 or bf16"
            )

    @property
    def is_gpu(self) -> bool:
        """Whether the device works asynchronously to the processor."""
        return self.device.type != "cpu"

    def at(self, precision: Precision) -> TorchDevice:
        """The same device with another precision."""
        return replace(self, precision=precision)

    def place(self, module: M) -> M:
        """The module, moved to the device in this memory format; changed in place."""
        return module.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> torch.autocast:
        """Autocast to the precision; does nothing in ``fp32`` and ``tf32``."""
        dtype = _TYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Scaler of the loss, which keeps small gradients of ``fp16``; inactive otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Seed torch's own generators; restore their previous state afterwards."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            yield

    @contextmanager
    def training(self, *, fixed_shapes: bool = False) -> Iterator[None]:
        """Apply torch's settings for a long training on this device; restore them afterwards.

        Args:
            fixed_shapes: Whether every step computes on the same shapes. On CUDA, cuDNN then
                tries its algorithms once for each: some tens of milliseconds a shape. Paths that
                are drawn at random have over a thousand shapes, and new ones whenever a width
                changes. cuDNN may choose differently in another process, so two such runs on a
                GPU agree up to rounding and not bit for bit.
        """
        if self.device.type != "cuda":
            yield
            return
        cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
        before = cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
        cudnn.benchmark = fixed_shapes
        if self.precision == "tf32":
            cudnn.allow_tf32 = products.allow_tf32 = True
        try:
            with torch.cuda.device(self.device):
                yield
        finally:
            cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = before

    @contextmanager
    def guarded(self, *, work: str, kept: str, batch_size: int | None = None) -> Iterator[None]:
        """Translate errors of the device into one line that says what to do.

        Args:
            work: Name of the work that an error ends, such as ``the training``.
            kept: Words that say what is kept.
            batch_size: Images a step, if the work has steps.

        Raises:
            TorchDeviceError: The memory is too small, the device failed, or another process of
                the training ended.
        """
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
            is_full = any(words in str(error) for words in _NO_MEMORY)
            if not is_full and (
                isinstance(error, torch.distributed.DistError)
                or any(words in str(error) for words in _LEFT_ALONE)
            ):
                raise TorchDeviceError(
                    f"{work} lost another of its processes ({reason}); {kept}. What to do: see "
                    "what that process printed, and repeat the command to resume"
                ) from error
            failed = isinstance(error, DEVICE_ERRORS) or (
                self.is_gpu and any(words in reason for words in _FAILURES)
            )
            if not failed and _NO_MEMORY[0] not in reason:
                raise
            if any(words in reason for words in _NO_MEMORY):
                images = f" with batches of {batch_size} images" if batch_size else ""
                raise TorchDeviceError(
                    f"{self._described()} has not enough memory for {work}{images}; {kept}. What "
                    "to do: begin in another folder (-o) with a smaller --batch-size or with "
                    "--set precision=bf16; or resume here and share each batch among more devices "
                    "by torchrun, or after ending what else uses this memory"
                ) from error
            raise TorchDeviceError(
                f"{self.device} failed in {work} ({reason}); {kept}. What to do: look at "
                "`nvidia-smi` and the system's log, and repeat the command to resume, on another "
                "device if need be (--torch-device)"
            ) from error

    def _described(self) -> str:
        if self.device.type != "cuda":
            return str(self.device)
        try:
            about = torch.cuda.get_device_properties(self.device)
        except RuntimeError:  # not even its context has room
            return str(self.device)
        return f"{self.device} ({about.name}, {about.total_memory / 2**30:.0f} GiB)"


CPU = TorchDevice(torch.device("cpu"))


def find_torch_device(name: str = "auto") -> TorchDevice:
    """The device with this name.

    Args:
        name: ``auto`` (the GPU where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or
            ``mps``. Without a number, ``cuda`` is the GPU of this process's local rank under
            ``torchrun``, and the first one otherwise.

    Raises:
        InvalidValueError: There is no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _refused(f"there is no torch device {name!r}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise _refused(f"no training runs on torch device {name!r}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise _refused("this machine has no Apple GPU that PyTorch can use")
    if device.type == "cuda":
        device = _gpu(device)
    return TorchDevice(device)


def _gpu(device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise _refused(f"PyTorch {torch.__version__} finds no CUDA GPU here")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun, on this machine
    if processes > count:
        raise _refused(f"torchrun started {processes} processes for {count} GPUs: start {count}")
    index = device.index
    if index is None:
        index = int(os.environ.get("LOCAL_RANK", "0"))
    elif processes > 1:
        raise _refused(
            f"{processes} processes cannot share {device}: name it without a number, and each "
            "takes a GPU of its own"
        )
    if index >= count:
        raise _refused(f"there is no GPU {index}: PyTorch finds {count}, numbered from 0")
    return torch.device("cuda", index)


def _refused(what: str) -> InvalidValueError:
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    choices = ("auto", "cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else []))
    return InvalidValueError(f"{what}: choose one of {', '.join(choices)}", choices=choices)
