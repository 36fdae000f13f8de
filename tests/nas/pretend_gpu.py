"""A simulated GPU: its tensors count as another device's, and are computed on the CPU.

torch treats them as tensors of another device. A tensor left on the CPU is an error wherever it
would be one on a GPU. Recorded are copies to the device, and all that the processor would wait for:
values that are read back, and operations whose result's shape depends on values.

``FakeTensorMode`` has tensors of a GPU without one, but no backward pass on them, and no values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import Library, fallthrough_kernel
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import (
    _setup_privateuseone_for_python_backend as register_device,
)

from nas.training.torch_device import TorchDevice

NAME = "pretend"

# operations whose result's shape depends on values, and such as give the processor a value
_WAITING = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
}
_CROSSING = {"_to_copy", "copy_"}


_LIBRARIES: list[Library] = []  # registrations live as long as these


class _Module:
    """The functions that torch calls in a device's module."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Its draws are the CPU's."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class DeviceTensor(Tensor):
    """A tensor on the device; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = real
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return Recorder().__torch_dispatch__(func, types, args, kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"on the device: {self.held!r}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made = self.detach().clone()
        return nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as ``map_location="cpu"`` reads it."""
        return self.held.detach().__reduce_ex__(protocol)


class Recorder(TorchDispatchMode):
    """Computes on the CPU values of the device's tensors.

    Attributes:
        sent: Sizes of the tensors copied to the device.
        waits: Names of the operations that the processor waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[int] = []
        self.waits: list[str] = []

    def clear(self) -> None:
        """Forget what was recorded."""
        self.sent.clear()
        self.waits.clear()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and shielding a call takes longer than most calls

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        there = DeviceTensor in types
        wanted = kwargs.get("device")
        if wanted is None:
            if not there:
                return func(*args, **kwargs)
            to_device = False
        else:
            to_device = torch.device(wanted).type == NAME
            if not (there or to_device):
                return func(*args, **kwargs)
            kwargs = {**kwargs, "device": torch.device("cpu")}
        name = func.overloadpacket.__name__
        if name in _CROSSING:
            self._cross(name, args, to_cpu=wanted is not None and not to_device)
        elif there:
            self._require_there(func, [*args, *kwargs.values()])
        if name in _WAITING or (name in ("index", "index_put_") and _masks(args)):
            self.waits.append(name)
        found = func(*map(_real, args), **{key: _real(value) for key, value in kwargs.items()})
        if name == "_to_copy" and wanted is not None and not to_device:
            return found
        if name == "copy_" and not isinstance(args[0], DeviceTensor):
            return args[0]
        made = _wrapped(found)
        if not (there and _aliases(func)):
            return made
        return return_and_correct_aliasing(func, args, kwargs, made)

    def _cross(self, name: str, args: Sequence[Any], *, to_cpu: bool) -> None:
        source = args[1] if name == "copy_" else args[0]
        target_there = isinstance(args[0], DeviceTensor) if name == "copy_" else not to_cpu
        source_there = isinstance(source, DeviceTensor)
        if source_there and not target_there:
            self.waits.append(f"{name} to the CPU")
        elif target_there and not source_there:
            self.sent.append(source.numel())

    def _require_there(self, func: Any, given: Sequence[Any]) -> None:
        for value in _tensors(given):
            if not isinstance(value, DeviceTensor) and value.dim() > 0:
                raise RuntimeError(
                    f"{func}: expected all tensors on the device, but one of shape "
                    f"{tuple(value.shape)} lies on the CPU"
                )


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among the arguments of an operation, and in its lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _real(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)([_real(each) for each in value])
    return value.held if isinstance(value, DeviceTensor) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)([_wrapped(each) for each in value])
    return DeviceTensor(value) if isinstance(value, Tensor) else value


@cache
def _aliases(func: Any) -> bool:
    """Whether an operation returns, or changes, one of its arguments."""
    schema = func._schema
    return any(value.alias_info for value in (*schema.arguments, *schema.returns))


def _masks(args: Sequence[Any]) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in args[1])


@contextmanager
def pretend_gpu() -> Iterator[Recorder]:
    """Activate the device; yields its recorder."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        register_device(NAME, _Module())
        plain = Library("_", "IMPL")
        plain.fallback(fallthrough_kernel, "AutocastPrivateUse1")  # casts nothing
        _LIBRARIES.append(plain)
    # torch counts devices once, at the first backward pass: it has no thread for this one
    with torch.autograd.set_multithreading_enabled(False), Recorder() as recorder:
        yield recorder


def on_pretend_gpu() -> TorchDevice:
    """The device as a ``TorchDevice`` for trainings."""
    return TorchDevice(torch.device(NAME, 0))
