"""Time to open a network and memory that it takes, measured in a process of its own.

A process that has measured other networks keeps their memory and their libraries' caches.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.measure.noise import REFERENCES
from latbench.models.onnx_model import OnnxModel
from latbench.profilers import Profiler, make_profiler, open_session
from latbench.profilers.driver import cuda_driver
from latbench.profilers.remote import RemoteProfiler
from latbench.progress import Progress, silent
from latbench.workflows.apart import run_apart

_OPENINGS = 3
_CALLS = 3
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"  # what clear_refs takes to set the peak to the present size


@dataclass(frozen=True)
class Footprint:
    """Cost of having a network ready.

    Attributes:
        load_ms: Median time to open it, with its weights in memory.
        peak_mb: Growth of the process's resident memory, or of the GPU's used memory, by opening
            and calling it, in 10^6 bytes.
    """

    load_ms: float
    peak_mb: float


def measure_footprint(
    profiler: Profiler, network: OnnxModel | Network, *, progress: Progress = silent
) -> Footprint:
    """Open and call a network in a new process, on the device of a profiler.

    Raises:
        RuntimeFailure: The runtime refused the network, or the process died, as it does if the
            memory does not suffice.
    """
    if isinstance(profiler, RemoteProfiler):
        return Footprint(*profiler.footprint(network, progress))
    name = network.name if isinstance(network, OnnxModel) else "the network"
    died = f"the process that opened {name} died: its memory may not suffice"
    return run_apart(_measure_here, profiler.profile, network, died=died, progress=progress)


def _measure_here(
    profile: DeviceProfile, network: OnnxModel | Network, progress: Progress
) -> Footprint:
    """Footprint of a network in this process, which has opened no other one."""
    profiler = make_profiler(profile)
    first = profiler.open(next(iter(REFERENCES.values())))  # loads the runtime's libraries
    first.call()
    first.close()
    _forget_peak()
    before = _taken_bytes(profiler)
    taken_s, grown = [], 0
    for number in range(_OPENINGS):
        progress(number / _OPENINGS, f"time {number + 1} of {_OPENINGS}")
        opening = profiler if number == 0 else make_profiler(profile)  # one keeps what it compiled
        if opening.gpu is not None:
            _ = opening.gpu.timer  # what times the calls is no part of opening a network
        begin = perf_counter()
        session = open_session(opening, network)
        taken_s.append(perf_counter() - begin)
        for _ in range(_CALLS):
            session.call()
        if number == 0:
            grown = _taken_bytes(profiler) - before
        session.close()
    return Footprint(median(taken_s) * 1e3, max(0, grown) / 1e6)


def _taken_bytes(profiler: Profiler) -> int:
    """Used memory of the GPU that is measured; on a CPU the peak of this process."""
    if profiler.gpu is None:
        return peak_bytes()
    free, total = cuda_driver().memory_bytes()
    return total - free


def _forget_peak() -> None:
    """Give freed memory back and set the peak to the present size, where the system can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl
        if trim is not None:
            trim(0)
        try:
            _CLEAR.write_text(_CLEAR_PEAK)
        except OSError:  # not permitted in some containers: the peak is then the process's
            return


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
