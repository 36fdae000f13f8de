"""Presence and state of the GPU, from the NVIDIA driver and NVML.

A GPU that is idle, hot or short of power lowers its clock, and latencies measured then are too
high. The clock is therefore read while the GPU works. Values that a board does not report are None
and never lead to a dropped visit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

from latbench.environment import Gpu
from latbench.errors import RuntimeFailure
from latbench.profilers.driver import cuda_driver

_ELSEWHERE = "run this on a machine where `nvidia-smi` lists one"

# NVML's reasons for a reduced clock; an idle GPU and a clock set by its owner are not listed
_THROTTLES = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "slower GPU of its group",
    "SwThermalSlowdown": "temperature",
    "HwThermalSlowdown": "temperature (hardware)",
    "HwPowerBrakeSlowdown": "power brake",
}


def no_gpu() -> str | None:
    """Reason why there is no CUDA GPU to measure on; None if there is one. Needs no package."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return f"no NVIDIA GPU, or no driver for it (libcuda.so.1): {_ELSEWHERE}"
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if failed or count.value == 0:
        return (
            f"the NVIDIA driver finds no GPU (CUDA error {failed}): {_ELSEWHERE}; of a GPU in MIG "
            "mode, name a slice in CUDA_VISIBLE_DEVICES"
        )
    return None


def read_gpu(keep_busy: Callable[[], None]) -> Gpu:
    """Read the state of the GPU under load.

    Args:
        keep_busy: Function that keeps the GPU at work for some tenths of a second.

    Raises:
        RuntimeFailure: NVML does not know the GPU, or the GPU is lost.
    """
    import pynvml

    device = nvml_device()
    name, driver = cuda_driver().name, driver_version()
    keep_busy()
    clock_mhz = _clock_mhz()
    power_mw = _answer(pynvml.nvmlDeviceGetEnforcedPowerLimit, device)
    return Gpu(
        name=name,
        driver=driver,
        clock_mhz=clock_mhz,
        max_clock_mhz=_max_clock_mhz(),
        throttled_by=_throttled_by(),
        memory_clock_mhz=_answer(pynvml.nvmlDeviceGetClockInfo, device, pynvml.NVML_CLOCK_MEM),
        memory_mib=cuda_driver().memory_bytes()[1] >> 20,
        power_limit_w=None if power_mw is None else power_mw / 1e3,
    )


def driver_version() -> str:
    """Version of the NVIDIA driver."""
    import pynvml

    nvml_device()
    version: str = pynvml.nvmlSystemGetDriverVersion()
    return version


class ClockWatch:
    """Checks the GPU's clock during visits.

    Args:
        least: Fraction of the highest clock below which a visit does not count.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._too_low: str | None = None

    def __call__(self) -> None:
        """Read the clock; the GPU must be at work, or have been a moment ago.

        Raises:
            RuntimeFailure: The GPU is lost.
        """
        clock_mhz, max_mhz = _clock_mhz(), self._max_mhz
        if clock_mhz is None or max_mhz is None or clock_mhz >= self._least * max_mhz:
            return
        why = ", ".join(_throttled_by()) or "no reason reported"
        self._too_low = (
            f"the GPU runs at {clock_mhz} MHz, below {self._least:.0%} of its {max_mhz} MHz "
            f"({why}): cool it, raise its power limit, or fix its clock with `nvidia-smi "
            "--lock-gpu-clocks`; where the clock is low on purpose, lower `least_clock` under "
            "[sweep] of the profile"
        )

    def verdict(self) -> str | None:
        """Reason why the visit since the last verdict does not count; None if it counts."""
        too_low, self._too_low = self._too_low, None
        return too_low

    @cached_property
    def _max_mhz(self) -> int | None:
        return _max_clock_mhz()


@lru_cache(maxsize=1)
def nvml_device() -> Any:
    """NVML's handle of the measured GPU, which may have another index than in CUDA."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByPciBusId(cuda_driver().pci_bus_id)
    except pynvml.NVMLError as error:
        raise RuntimeFailure(
            f"NVML does not know the GPU ({error}): check that `nvidia-smi` lists it"
        ) from error


def _clock_mhz() -> int | None:
    import pynvml

    return _answer(pynvml.nvmlDeviceGetClockInfo, nvml_device(), pynvml.NVML_CLOCK_SM)


def _max_clock_mhz() -> int | None:
    import pynvml

    return _answer(pynvml.nvmlDeviceGetMaxClockInfo, nvml_device(), pynvml.NVML_CLOCK_SM)


def _throttled_by() -> list[str]:
    import pynvml

    reasons = _answer(pynvml.nvmlDeviceGetCurrentClocksEventReasons, nvml_device()) or 0
    bits = {
        words: getattr(pynvml, f"nvmlClocksEventReason{k}", 0) for k, words in _THROTTLES.items()
    }
    return [words for words, bit in bits.items() if reasons & bit]


def _answer(ask: Callable[..., int], *about: Any) -> int | None:
    """Answer of NVML; None if the board does not report the value.

    Raises:
        RuntimeFailure: The GPU is lost.
    """
    import pynvml

    try:
        return ask(*about)
    except pynvml.NVMLError as error:
        if getattr(error, "value", None) == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise RuntimeFailure(
                "the GPU is lost (it has fallen off the bus): restart the machine, then run the "
                "same command again; what was measured before is kept"
            ) from error
        return None
