"""Time to open a network and memory that it takes, measured in a process of its own.

A process that has measured other networks keeps their memory and their libraries' caches.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter

from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.errors import LatbenchError, RuntimeFailure
from latbench.measure.noise import REFERENCES
from latbench.models.onnx_model import OnnxModel
from latbench.profilers import Profiler, make_profiler, open_session
from latbench.profilers.driver import cuda_driver

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
            and calling it, in 10^6 bytes; None if the system does not report it.
    """

    load_ms: float
    peak_mb: float | None


def measure_footprint(profile: DeviceProfile, network: OnnxModel | Network) -> Footprint:
    """Open and call a network in a new process.

    Raises:
        RuntimeFailure: The runtime refused the network, or the process died, as it does if the
            memory does not suffice.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure_here, args=(theirs, profile, network), daemon=True)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        name = network.name if isinstance(network, OnnxModel) else "the network"
        raise RuntimeFailure(
            f"the process that opened {name} died: its memory may not suffice"
        ) from None
    finally:
        process.terminate()
        process.join()
        ours.close()
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Footprint)
    return found


def _measure_here(pipe: Connection, profile: DeviceProfile, network: OnnxModel | Network) -> None:
    """Body of the process: sends the footprint or the error."""
    try:
        profiler = make_profiler(profile)
        first = profiler.open(next(iter(REFERENCES.values())))  # loads the runtime's libraries
        first.call()
        first.close()
        gpu_free = _free_bytes(profiler)
        _forget_peak()
        before = _peak_bytes()
        taken_s = []
        for _ in range(_OPENINGS):
            begin = perf_counter()
            session = open_session(profiler, network)
            taken_s.append(perf_counter() - begin)
            for _ in range(_CALLS):
                session.call()
            if len(taken_s) == 1:
                after = _peak_bytes()
                left = _free_bytes(profiler)
            session.close()
        if gpu_free is not None and left is not None:
            peak_mb: float | None = max(0, gpu_free - left) / 1e6
        else:
            peak_mb = None if before is None or after is None else max(0, after - before) / 1e6
        pipe.send(Footprint(median(taken_s) * 1e3, peak_mb))
    except LatbenchError as error:
        pipe.send(error)


def _free_bytes(profiler: Profiler) -> int | None:
    """Free memory of the GPU; None on a CPU."""
    return None if profiler.gpu is None else cuda_driver().memory_bytes()[0]


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


def _peak_bytes() -> int | None:
    """Largest resident memory of this process so far."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
