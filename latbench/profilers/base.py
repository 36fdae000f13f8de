"""What a runtime must offer to be measured: open a network, call it, close it.

A profiler translates its runtime's exceptions into ``RuntimeFailure``, and nothing else does.
It touches the device only between ``open`` and ``close``; the timing loop is not its business
(``latbench.measure.visit``). Its module can be imported without its runtime: ``unavailable`` is
where a missing one is reported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter_ns
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.environment import Environment, current_environment, l2_bytes
from latbench.errors import InvalidValueError, MissingExtraError, offence
from latbench.profilers.measured import MeasuredGpu

Options = TypeVar("Options", bound=msgspec.Struct)

Flush = Callable[[], None]
"""Evicts the device's L2 cache, and returns when that is done or bound to precede the next call."""


class Session(ABC):
    """A network loaded on the device, with its input in place."""

    @abstractmethod
    def call(self) -> None:
        """Compute one batch and return when the result is there.

        Raises:
            RuntimeFailure: The runtime refused only now what it had opened.
        """

    def timed_call(self) -> int:
        """Call, and return what it took in ns: by the processor's clock unless overridden.

        On CUDA, by the clock that the profile names.
        """
        call = self.call
        start = perf_counter_ns()
        call()
        return perf_counter_ns() - start

    @abstractmethod
    def output(self) -> NDArray[np.float32]:
        """What the last call computed, ``(N, C, H, W)`` or ``(N, K)``: to compare runtimes by."""

    @abstractmethod
    def close(self) -> None:
        """Release the device's memory; nothing else must be asked of the session afterwards."""


class CacheFlusher:
    """Evicts the processor's L2 cache by writing a buffer of its size."""

    def __init__(self, size_bytes: int) -> None:
        self._buffer = np.zeros(max(1, size_bytes // 4), dtype=np.float32)

    def __call__(self) -> None:
        self._buffer.fill(1.0)


class Profiler(ABC):
    """One runtime under one device profile.

    Attributes:
        profile: The device profile.
        gpu: The GPU that is measured; None on the CPU.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self.gpu = MeasuredGpu(profile, self.stream) if profile.device == "cuda" else None

    @staticmethod
    @abstractmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        """Why this profile cannot run here, with what to do about it; None if it can."""

    @abstractmethod
    def open(self, network: Network) -> Session:
        """Load a network, or a single block as a network of one.

        Raises:
            RuntimeFailure: The runtime refused it.
        """

    def environment(self) -> Environment:
        """The device and the software as they are now, with what could not be done as asked."""
        if self.gpu is None:
            return current_environment(self.versions())
        return current_environment(self.versions(), self.gpu.record(), remarks=self.remarks())

    def remarks(self) -> list[str]:
        """What could not be done as asked so far, in whole sentences."""
        return [] if self.gpu is None else self.gpu.remarks

    def warm_up(self) -> None:
        """Bring the device to the clock that it has under load, before a pass."""
        if self.gpu is not None:
            self.gpu.warm_up()

    def watch(self) -> Callable[[], None] | None:
        """What looks at the device during a visit, for ``distrust``; None where nothing does."""
        return None if self.gpu is None else self.gpu.watch

    def distrust(self) -> str | None:
        """Why the last visit does not count, with what to do about it; None if it does."""
        return None if self.gpu is None else self.gpu.watch.verdict()

    def cache_flusher(self) -> Flush:
        """What evicts the L2 cache of the device."""
        return CacheFlusher(l2_bytes()) if self.gpu is None else self.gpu.flush

    def stream(self) -> int:
        """Handle of the CUDA stream that sessions compute on; the default one unless overridden."""
        return 0

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the runtime and of what it runs on, for the environment record."""


def missing_package(module: str, what: str, extra: str) -> str | None:
    """Why an optional package is of no use here, or None if it is installed; imports nothing."""
    try:
        spec = find_spec(module)
        installed = spec is not None and spec.origin is not None  # not a folder of stubs
    except (ModuleNotFoundError, ValueError):  # no parent package, or its import is blocked
        installed = False
    return None if installed else MissingExtraError(what, extra).message


def read_options(profile: DeviceProfile, kind: type[Options]) -> Options:
    """The ``[options]`` of a profile as the struct of what its runtime knows.

    Raises:
        InvalidValueError: An option that the runtime does not know, or a value that it cannot be.
    """
    try:
        return msgspec.convert(profile.options, kind, strict=False)  # values are text in the file
    except msgspec.ValidationError as error:
        known = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise InvalidValueError(
            f"wrong options for {profile.runtime} in {profile.name}: {error}; it knows {known}",
            path=(offence(str(error)) or "$").replace("$", "$.options", 1),
        ) from error
