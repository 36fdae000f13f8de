"""Conditions of a processor that change while it works: temperature, clock, throttling.

A processor that gets too hot, or too little power, lowers its clock. What is measured then belongs
to another machine. Linux reports this in files of /sys. Which of them exist depends on the system:

- x86: counters of throttling in ``cpu*/thermal_throttle``;
- cooling devices of processors, whose state is above 0 while they limit a clock;
- a Raspberry Pi: the bits of ``get_throttled``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from latbench.environment import read_system

_SYS = Path("/sys")
_MEMORY = Path("/proc/meminfo")
_PI_BITS = {  # the lowest bits of the firmware's word: what holds now
    0: "the voltage is too low: use a stronger power supply",
    1: "the firmware limits the clock",
    2: "the processor is throttled",
    3: "the soft temperature limit is reached: cool the board",
}


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State of the processors at one moment; None for what the system does not report.

    Attributes:
        temperature_c: Highest temperature that the machine reports.
        clock_mhz: Mean clock of the processors.
        throttled: Number of times that processors were slowed down because of heat or power.
        free_mib: Memory that programs can still take.
        limits: Limits that hold now, in words.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    throttled: int | None = None
    free_mib: int | None = None
    limits: tuple[str, ...] = ()

    def spoilt_since(self, earlier: Conditions) -> str | None:
        """Reason why what was measured between two moments does not count; None if it counts."""
        before, now = earlier.throttled, self.throttled
        if before is not None and now is not None and now > before:
            return "the processors were throttled"  # each processor of a package counts it
        return "; ".join(dict.fromkeys((*earlier.limits, *self.limits))) or None


def in_words(conditions: Sequence[Conditions]) -> str:
    """Range of temperatures and clocks of some moments; empty where nothing is known of them."""
    ranges = []
    for name, unit in (("temperature_c", "°C"), ("clock_mhz", "MHz")):
        known = [value for each in conditions if (value := getattr(each, name)) is not None]
        if known:
            low, high = f"{min(known):.0f}", f"{max(known):.0f}"
            ranges.append(f"{low if low == high else f'{low} to {high}'} {unit}")
    return ", ".join(ranges)


def read_conditions(system: Path = _SYS) -> Conditions:
    """Read the conditions of this machine.

    Args:
        system: Folder of the system's files, ``/sys``.
    """
    cpu = system / "devices/system/cpu"
    temperatures = _numbers(system.glob("class/thermal/thermal_zone*/temp"))
    clocks = _numbers(cpu.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    counts = _numbers(cpu.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
    return Conditions(
        temperature_c=max(temperatures) / 1e3 if temperatures else None,
        clock_mhz=sum(clocks) / len(clocks) / 1e3 if clocks else None,
        throttled=sum(counts) if counts else None,
        free_mib=_free_mib(),
        limits=(*_cooling(system), *_raspberry_pi(system)),
    )


def _free_mib() -> int | None:
    found = re.search(r"^MemAvailable: +(\d+) kB", read_system(_MEMORY) or "", re.MULTILINE)
    return None if found is None else int(found.group(1)) >> 10


def _cooling(system: Path) -> list[str]:
    """Processors whose clock a cooling device limits now."""
    found = []
    for folder in sorted(system.glob("class/thermal/cooling_device*")):
        kind = read_system(folder / "type") or ""
        state = _numbers([folder / "cur_state"])
        if state and state[0] > 0 and ("cpufreq" in kind or kind == "Processor"):
            found.append(f"cooling limits the clock ({kind})")
    return list(dict.fromkeys(found))


def _raspberry_pi(system: Path) -> list[str]:
    for path in system.glob("devices/platform/soc*/soc*firmware/get_throttled"):
        try:
            word = int(read_system(path) or "0", 16)
        except ValueError:
            continue
        return [words for bit, words in _PI_BITS.items() if word >> bit & 1]
    return []


def _numbers(paths: Iterable[Path]) -> list[int]:
    """Whole numbers of files; files that cannot be read, or hold none, are left out."""
    texts = (read_system(path) for path in paths)
    return [int(text) for text in texts if text and text.lstrip("-").isdigit()]
