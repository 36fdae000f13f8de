"""Environment of a measurement, as tables record it: machine, governor, clocks, versions, date."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from latbench import __version__

_HARMLESS = {"python", "latbench"}  # versions that do not affect latencies
_CPUS = Path("/sys/devices/system/cpu")
_MEMORY_LIMITS = (  # of a container: cgroups of version 2 and 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_DEFAULT_L2_BYTES = 1 << 20  # used if the system does not report it; common on phones and servers
_DEFAULT_LAST_CACHE_BYTES = 32 << 20


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State of a GPU at one moment; values that the GPU does not report are None.

    Attributes:
        name: Model name; for a MIG slice, it includes the profile of the slice.
        driver: Version of the driver.
        clock_mhz: Clock of the multiprocessors under load.
        max_clock_mhz: Highest boost clock.
        throttled_by: Reasons for a reduced clock, in words.
        base_clock_mhz: Base clock. Only tables of earlier versions have it, because NVIDIA has
            deprecated it.
        memory_clock_mhz: Clock of the memory under load.
        memory_mib: Size of the memory.
        power_limit_w: Power limit.
    """

    name: str
    driver: str
    clock_mhz: int | None
    max_clock_mhz: int | None
    throttled_by: list[str]
    base_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    memory_mib: int | None = None
    power_limit_w: float | None = None


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State of the machine and the software at one moment.

    Attributes:
        cpu: Model name of the processor.
        cores: Number of processors that this process may use.
        governor: Frequency governor of the first of them; None if the system does not report it.
        clock_mhz: Current clock of the first of them; None if the system does not report it.
        l2_bytes: Size of the L2 cache of the first of them.
        memory_mib: Memory of the machine.
        system: Operating system and its release.
        versions: Versions of Python, of this package and of the runtime.
        taken_at: Date and time, UTC, ISO 8601.
        gpu: State of the GPU; None if nothing is measured on a GPU.
        remarks: Requests that the profiler could not follow, in whole sentences.
    """

    cpu: str
    cores: int
    governor: str | None
    clock_mhz: float | None
    l2_bytes: int
    memory_mib: int
    system: str
    versions: dict[str, str]
    taken_at: str
    gpu: Gpu | None = None
    remarks: list[str] = msgspec.field(default_factory=list)

    @property
    def chip(self) -> str:
        """Name of what computes: the GPU if there is one, else the processor."""
        return self.cpu if self.gpu is None else self.gpu.name

    def differences(self, other: Environment) -> list[str]:
        """Differences from an earlier environment that can change latencies, in words."""
        found = []
        for field in ("cpu", "cores", "governor", "l2_bytes"):
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                found.append(f"{field} is {ours}, was {theirs}")
        for field in ("name", "driver"):
            ours, theirs = getattr(self.gpu, field, None), getattr(other.gpu, field, None)
            if ours != theirs:
                found.append(f"GPU {field} is {ours}, was {theirs}")
        for name in sorted((self.versions.keys() | other.versions.keys()) - _HARMLESS):
            ours, theirs = self.versions.get(name), other.versions.get(name)
            if ours != theirs:
                found.append(f"{name} is {ours}, was {theirs}")
        return found


def current_environment(
    runtime_versions: Mapping[str, str], gpu: Gpu | None = None, *, remarks: Sequence[str] = ()
) -> Environment:
    """Record the present state of the machine, and of the GPU if one is measured."""
    runtimes = {
        name: str(version) for name, version in runtime_versions.items()
    }  # the version of PyTorch has a suffix for its build
    versions = {"python": platform.python_version(), "latbench": __version__, **runtimes}
    return Environment(
        cpu=_cpu_model(),
        cores=len(usable_processors()),
        governor=read_system(processor_folder() / "cpufreq/scaling_governor"),
        clock_mhz=_clock_mhz(),
        l2_bytes=l2_bytes(),
        memory_mib=memory_bytes() >> 20,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=versions,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        gpu=gpu,
        remarks=list(remarks),
    )


def unknown_environment(machine: str) -> Environment:
    """Environment of a measurement by somebody else; only the name of the machine is known."""
    return Environment(
        cpu=machine,
        cores=0,
        governor=None,
        clock_mhz=None,
        l2_bytes=0,
        memory_mib=0,
        system="unknown",
        versions={},
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def memory_bytes() -> int:
    """Size of the machine's memory in bytes, or of the part that this container may use."""
    limits = [int(text) for text in map(read_system, _MEMORY_LIMITS) if text and text.isdecimal()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def usable_processors() -> Collection[int]:
    """Numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def processor_folder() -> Path:
    """Folder of the first processor that this process may use: boards have faster and slower."""
    return _CPUS / f"cpu{min(usable_processors())}"


def l2_bytes() -> int:
    """Size of the L2 cache of a usable processor in bytes; 1 MiB if the system does not say."""
    return _cache_bytes().get(2, _DEFAULT_L2_BYTES)


def last_cache_bytes() -> int:
    """Size of a usable processor's largest cache in bytes; 32 MiB if the system reports none."""
    return max(_cache_bytes().values(), default=_DEFAULT_LAST_CACHE_BYTES)


def _cache_bytes() -> dict[int, int]:
    """Sizes of a usable processor's caches by level, as far as the system reports them."""
    found = {}
    for index in sorted(processor_folder().glob("cache/index*")):
        level = read_system(index / "level") or ""
        size = re.fullmatch(r"(\d+)([KM]?)", read_system(index / "size") or "")
        if level.isdecimal() and size:
            found[int(level)] = int(size.group(1)) << {"": 0, "K": 10, "M": 20}[size.group(2)]
    return found


def _cpu_model() -> str:
    info = read_system(Path("/proc/cpuinfo")) or ""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", info, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _clock_mhz() -> float | None:
    khz = read_system(processor_folder() / "cpufreq/scaling_cur_freq")
    if khz:
        return int(khz) / 1e3
    info = read_system(Path("/proc/cpuinfo")) or ""
    clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", info, re.MULTILINE)
    number = min(usable_processors())
    return float(clocks[number]) if number < len(clocks) else None


def read_system(path: Path) -> str | None:
    """Contents of a system file; None if it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
