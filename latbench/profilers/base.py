"""What a runtime must offer to be measured: open a network, call it, close it.

A profiler translates its runtime's exceptions into ``RuntimeFailure``, and nothing else does.
It touches the device only between ``open`` and ``close``; the timing loop is not its business
(``latbench.measure.visit``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from latbench.blocks import Network
from latbench.device import DeviceProfile


class Session(ABC):
    """A network loaded on the device, with its input in place."""

    @abstractmethod
    def call(self) -> None:
        """Compute one batch and return when the result is there."""

    @abstractmethod
    def close(self) -> None:
        """Release the device's memory; ``call`` must not be used afterwards."""


class Profiler(ABC):
    """One runtime under one device profile."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile

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

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the runtime and of what it runs on, for the environment record."""
