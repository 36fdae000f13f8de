"""Work that other processes do on this machine while something is measured."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, process_time

from latbench.profilers import Profiler
from latbench.profilers.remote import RemoteProfiler

_STAT = Path("/proc/stat")
_IDLE = slice(3, 5)  # among the counters: idle, and waiting for a disk
_ALL = slice(0, 8)  # what follows is counted among these already


@dataclass(frozen=True)
class MachineLoad:
    """Processors in use during a span of time, in processors.

    Attributes:
        others: Processors that other processes used, and other guests of the same host.
        idle: Processors that nobody used.
        cores: Number of processors of the machine.
    """

    others: float
    idle: float
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)


class LoadMeter:
    """Measures the load of the machine from its creation on."""

    def __init__(self) -> None:
        self._begin = _counters()

    def read(self) -> MachineLoad | None:
        """The load so far; None where the system does not count it."""
        now = _counters()
        if now is None or self._begin is None or now.wall_s <= self._begin.wall_s:
            return None
        wall_s = now.wall_s - self._begin.wall_s
        busy_s, idle_s = now.busy_s - self._begin.busy_s, now.idle_s - self._begin.idle_s
        own_s = now.own_s - self._begin.own_s
        return MachineLoad(max(0.0, busy_s - own_s) / wall_s, idle_s / wall_s)


class RemoteLoadMeter(LoadMeter):
    """The same on a device elsewhere."""

    def __init__(self, profiler: RemoteProfiler) -> None:
        self._profiler = profiler
        profiler.begin(meter=True)

    def read(self) -> MachineLoad | None:
        found = self._profiler.load()
        return None if found is None else MachineLoad(found.others, found.idle, found.cores)


def load_meter(profiler: Profiler) -> LoadMeter:
    """Meter of the machine that a profiler measures on."""
    return RemoteLoadMeter(profiler) if isinstance(profiler, RemoteProfiler) else LoadMeter()


@dataclass(frozen=True)
class _Counters:
    wall_s: float
    busy_s: float
    idle_s: float
    own_s: float


def _counters() -> _Counters | None:
    """Times that processors were busy and idle since the start of the machine; None if unknown."""
    try:
        first = _STAT.read_text(encoding="ascii").partition("\n")[0]
        ticks = [int(word) for word in first.split()[1:]]
        per_s = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    if len(ticks) < 5:
        return None
    idle = sum(ticks[_IDLE])
    busy = sum(ticks[_ALL]) - idle
    return _Counters(monotonic(), busy / per_s, idle / per_s, process_time())
