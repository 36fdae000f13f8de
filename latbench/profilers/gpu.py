"""The GPU as the NVIDIA driver and NVML tell of it: whether there is one, and how it is.

A GPU that is hot or short of power lowers its clock, and what is measured then says nothing of
the network. What a board does not tell is None, and is not held against it.

Everything is about the first GPU that CUDA shows; ``CUDA_VISIBLE_DEVICES`` chooses another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from latbench.environment import Gpu

_ELSEWHERE = "run this on a machine where `nvidia-smi` lists one"
_LEAST_OF_BASE = 0.75  # of the base clock, as NVBench drops samples by default
_LEAST_OF_MAX = 0.5  # where the base clock is not told: it is some two thirds of the highest
_PCI_ID_BYTES = 32  # "00000000:65:00.0" and its end

# NVML's words for what holds a clock back; an idle GPU and a clock set by its owner are no fault
_THROTTLES = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "slower GPU of its group",
    "SwThermalSlowdown": "temperature",
    "HwThermalSlowdown": "temperature (hardware)",
    "HwPowerBrakeSlowdown": "power brake",
}


def no_gpu() -> str | None:
    """Why there is no CUDA GPU to measure on, or None if there is one; needs no package."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return f"no NVIDIA GPU, or no driver for it (libcuda.so.1): {_ELSEWHERE}"
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if failed or count.value == 0:
        return f"the NVIDIA driver finds no GPU (CUDA error {failed}): {_ELSEWHERE}"
    return None


def read_gpu() -> Gpu:
    """The GPU as it is now."""
    import pynvml

    device = _device()
    reasons = _told(pynvml.nvmlDeviceGetCurrentClocksEventReasons, device) or 0
    return Gpu(
        name=pynvml.nvmlDeviceGetName(device),
        driver=pynvml.nvmlSystemGetDriverVersion(),
        clock_mhz=_told(pynvml.nvmlDeviceGetClockInfo, device, pynvml.NVML_CLOCK_SM),
        base_clock_mhz=_base_clock_mhz(),
        max_clock_mhz=_max_clock_mhz(),
        throttled_by=[
            words
            for name, words in _THROTTLES.items()
            if reasons & getattr(pynvml, f"nvmlClocksEventReason{name}")
        ],
    )


def clock_too_low() -> str | None:
    """Why the clock is too low to measure by, with what to do about it; None if it is not."""
    import pynvml

    clock_mhz = _told(pynvml.nvmlDeviceGetClockInfo, _device(), pynvml.NVML_CLOCK_SM)
    least_mhz = _least_clock_mhz()
    if clock_mhz is None or least_mhz is None or clock_mhz >= least_mhz:
        return None
    why = ", ".join(read_gpu().throttled_by) or "no throttling told"
    return (
        f"the GPU runs at {clock_mhz} MHz, below {least_mhz:.0f} MHz ({why}): cool it, or fix its "
        "clock with `nvidia-smi --lock-gpu-clocks`"
    )


@lru_cache(maxsize=1)
def _device() -> Any:
    """NVML's handle of the first GPU that CUDA shows: the two do not count alike."""
    import pynvml

    driver = ctypes.CDLL("libcuda.so.1")
    pci_id, device = ctypes.create_string_buffer(_PCI_ID_BYTES), ctypes.c_int()
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetPCIBusId(pci_id, _PCI_ID_BYTES, device)
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByPciBusId(pci_id.value.decode())


def _least_clock_mhz() -> float | None:
    base_mhz, max_mhz = _base_clock_mhz(), _max_clock_mhz()
    if base_mhz is not None:
        return _LEAST_OF_BASE * base_mhz
    return None if max_mhz is None else _LEAST_OF_MAX * max_mhz


def _base_clock_mhz() -> int | None:
    """The clock that the board is made for, which NVML calls its default for applications."""
    import pynvml

    return _told(pynvml.nvmlDeviceGetDefaultApplicationsClock, _device(), pynvml.NVML_CLOCK_SM)


def _max_clock_mhz() -> int | None:
    import pynvml

    return _told(pynvml.nvmlDeviceGetMaxClockInfo, _device(), pynvml.NVML_CLOCK_SM)


def _told(ask: Callable[..., int], *about: Any) -> int | None:
    """What NVML answers; None where the board does not tell."""
    import pynvml

    try:
        return ask(*about)
    except pynvml.NVMLError:
        return None
