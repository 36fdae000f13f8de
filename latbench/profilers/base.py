"""Interface of a runtime to measure: open a network, call it, close it.

Only a profiler translates the exceptions of its runtime into ``RuntimeFailure``. It uses the device
only between ``open`` and ``close``. It does not contain the timing loop, which is in
``latbench.measure.visit``. The module of a profiler can be imported without the runtime;
``unavailable`` reports a missing runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from time import perf_counter_ns
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network
from latbench.conditions import Conditions, read_conditions
from latbench.device import DeviceProfile
from latbench.environment import Environment, current_environment, l2_bytes, last_cache_bytes
from latbench.errors import (
    InvalidValueError,
    MissingExtraError,
    RuntimeFailure,
    described,
    offence,
)
from latbench.models.onnx_model import OnnxModel
from latbench.profilers.measured import MeasuredGpu

Options = TypeVar("Options", bound=msgspec.Struct)

Flush = Callable[[], None]
"""Function that evicts a cache of the device, at the latest before the next call starts."""

_EVICTING = 1.5  # data read to evict a cache, relative to its size; more changes nothing
_LINE_BYTES = 64
_LINES_AT_ONCE = 4096  # so that the copies of the lines read stay in the L2 cache


class Session(ABC):
    """A network loaded on the device, with its input in place."""

    @abstractmethod
    def call(self) -> None:
        """Compute one batch and return when the result is available.

        Raises:
            RuntimeFailure: The runtime opened the network, but cannot compute it.
        """

    def timed_call(self) -> int:
        """Make a call and return its duration in ns, by the processor's clock unless overridden.

        On CUDA, the clock is the one that the profile names.
        """
        call = self.call
        start = perf_counter_ns()
        call()
        return perf_counter_ns() - start

    @abstractmethod
    def output(self) -> NDArray[np.float32]:
        """Output of the last call, ``(N, C, H, W)`` or ``(N, K)``, for comparing runtimes."""

    @abstractmethod
    def close(self) -> None:
        """Release the device's memory. The session must not be used afterwards."""


class CacheFlusher:
    """Evicts the processor's L2 cache by writing a buffer of its size."""

    def __init__(self, size_bytes: int) -> None:
        self._buffer = np.zeros(max(1, size_bytes // 4), dtype=np.float32)

    def __call__(self) -> None:
        self._buffer.fill(1.0)


class OtherData:
    """Reads data into all caches of a processor, as other work does between two calls.

    The lines of a buffer are read in random order, because caches that recognise a stream keep what
    they hold (docs/measurement.md has figures). They are copied to 256 KB that stay in the L2
    cache, so that the next call hardly waits for lines to be written back.

    Args:
        size_bytes: Number of bytes to read.
    """

    def __init__(self, size_bytes: int) -> None:
        chunks = max(1, size_bytes // (_LINE_BYTES * _LINES_AT_ONCE))
        lines = chunks * _LINES_AT_ONCE
        self.size_bytes = lines * _LINE_BYTES
        self._buffer = np.ones((lines, _LINE_BYTES // 4), dtype=np.float32)
        self._orders = np.random.default_rng(0).permutation(lines).reshape(chunks, -1)
        self._read = np.empty((_LINES_AT_ONCE, _LINE_BYTES // 4), dtype=np.float32)

    def __call__(self) -> None:
        for order in self._orders:
            np.take(self._buffer, order, axis=0, out=self._read, mode="clip")


class Profiler(ABC):
    """One runtime under one device profile.

    Attributes:
        profile: Device profile.
        gpu: GPU that is measured; None on the CPU.
        spoilt: Reason why the processors were slower than usual in the last pass; None if they
            were not.
    """

    spoilt: str | None = None

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self.gpu = MeasuredGpu(profile, self.stream) if profile.device == "cuda" else None

    @staticmethod
    @abstractmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        """Reason why this profile cannot run here, and what to do about it; None if it can."""

    @abstractmethod
    def open(self, network: Network) -> Session:
        """Load a network, or a single block as a network of one block.

        Raises:
            RuntimeFailure: The runtime refused the network.
        """

    def open_model(self, model: OnnxModel) -> Session:
        """Load an ONNX model.

        Raises:
            RuntimeFailure: The runtime refused the model, or cannot load ONNX models.
        """
        raise RuntimeFailure(
            f"{self.profile.runtime} does not load ONNX models: measure {model.name} under "
            "onnxruntime or openvino"
        )

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Restore, after the block, those settings of this process that sessions change."""
        yield

    def environment(self) -> Environment:
        """Present state of the device and the software, including ``remarks``."""
        if self.gpu is None:
            return current_environment(self.versions())
        return current_environment(self.versions(), self.gpu.record(), remarks=self.remarks())

    def remarks(self) -> list[str]:
        """Requests that could not be followed so far, in whole sentences."""
        return [] if self.gpu is None else self.gpu.remarks

    def begin(self) -> Conditions:
        """Bring the device to the state in which it is visited, and read its conditions."""
        self.warm_up()
        return self.conditions()

    def conditions(self) -> Conditions:
        """Present conditions of the device's processors."""
        return read_conditions()

    def warm_up(self) -> None:
        """Bring the device to the clock that it has under load, before a pass."""
        if self.gpu is not None:
            self.gpu.warm_up()

    def watch(self) -> Callable[[], None] | None:
        """Function that checks the device during a visit, for ``distrust``, or None."""
        return None if self.gpu is None else self.gpu.watch

    def distrust(self) -> str | None:
        """Reason why the last visit does not count, and what to do about it; None if it counts."""
        return None if self.gpu is None else self.gpu.watch.verdict()

    @cached_property
    def flush(self) -> Flush:
        """The function of ``cache_flusher``, whose buffer is made once."""
        return self.cache_flusher()

    def cache_flusher(self) -> Flush:
        """Make a function that brings the caches into the state that a cold call begins with.

        That is without what the L2 cache held, or as the profile's ``cache`` says.
        """
        if self.gpu is not None:
            return self.gpu.flush
        if self.profile.cache == "cold":
            return OtherData(round(_EVICTING * last_cache_bytes()))
        if self.profile.shared_mb is not None:
            return OtherData(self.profile.shared_mb << 20)
        return CacheFlusher(l2_bytes())

    def stream(self) -> int:
        """Handle of the CUDA stream that sessions use; the default stream unless overridden."""
        return 0

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the runtime and its libraries, for the environment record."""


def missing_package(module: str, what: str, extra: str) -> str | None:
    """Reason why an optional package cannot be used; None if it is installed. Imports nothing."""
    try:
        spec = find_spec(module)
        installed = spec is not None and spec.origin is not None  # not a folder of stubs
    except (ModuleNotFoundError, ValueError):  # no parent package, or its import is blocked
        installed = False
    return None if installed else MissingExtraError(what, extra).message


def read_options(profile: DeviceProfile, kind: type[Options]) -> Options:
    """Convert the ``[options]`` of a profile to the struct of options that its runtime accepts.

    Raises:
        InvalidValueError: The runtime does not know an option, or does not accept its value.
    """
    try:
        return msgspec.convert(profile.options, kind, strict=False)  # values are text in the file
    except msgspec.ValidationError as error:
        known = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise InvalidValueError(
            f"wrong options for {profile.runtime} in {profile.name}: {described(error, kind)}; "
            f"it knows {known}",
            path=(offence(str(error)) or "$").replace("$", "$.options", 1),
        ) from error
