"""Three published networks under several runtimes on the GPU, one image and 32 images a call."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.baselines import BASELINES
from benchmarks.gpu.conditions import Conditions
from benchmarks.gpu.record import Record
from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.measure.visit import visit
from latbench.profilers import PROFILERS

_DWELL_MS = 150.0


def run(conditions: Conditions, record: Record) -> None:
    """A line a runtime and batch size, fastest call of each network."""
    size = 32 if conditions.tiny else 224
    networks = {name: made(1.0, size, 1000) for name, made in BASELINES.items()}
    if conditions.tiny:
        networks = dict(list(networks.items())[:1])
    record.add(f"fastest and median call in ms, {size} px: {', '.join(networks)}")
    for profile in _profiles(conditions):
        if conditions.seconds_left < 15:
            record.add(f"{profile.name}: no time left")
            continue
        family = PROFILERS[profile.runtime]
        try:
            why = family.unavailable(profile)
            if why is not None:
                record.add(f"{profile.name}: {why}")
                continue
            times = [_times_ms(profile, network) for network in networks.values()]
        except Exception as error:  # of a runtime that is not as expected; the next may be
            record.add(f"{profile.name} FAILED: {type(error).__name__}: {error}")
            continue
        words = ", ".join(f"{fastest:.3f} ({median:.3f})" for fastest, median in times)
        record.add(f"{profile.name}: {words}", **{profile.name: times})


def _profiles(conditions: Conditions) -> Iterator[DeviceProfile]:
    """Cheap ones first: compilers and builders of engines come last."""
    kinds: list[tuple[str, str, dict[str, str]]] = [
        ("pytorch-graph", "pytorch", {"cuda_graph": "true"}),
        ("pytorch-eager", "pytorch", {"cuda_graph": "false"}),
        ("onnxruntime", "onnxruntime", {}),
        ("pytorch-compile", "pytorch", {"compile": "true", "cuda_graph": "true"}),
        ("tensorrt", "tensorrt", {}),
    ]
    if conditions.tiny:
        yield DeviceProfile(name="pytorch, batch 1", runtime="pytorch")
        kinds = [kind for kind in kinds if kind[0] != "tensorrt"]
    for name, runtime, options in kinds:
        for batch_size in (1, 32):
            precision = "fp16" if runtime == "tensorrt" else "fp32"
            yield DeviceProfile(
                name=f"{name}, batch {batch_size}, {precision}",
                runtime=runtime,
                device="cuda",
                batch_size=batch_size,
                precision=precision,  # type: ignore[arg-type]
                options=options,
                clock="host",
            )


def _times_ms(profile: DeviceProfile, network: Network) -> tuple[float, float]:
    """Fastest and median hot call, from the call until its result is there."""
    profiler = PROFILERS[profile.runtime](profile)
    session = profiler.open(network)
    profiler.warm_up()
    try:
        hot_ns = visit(session, profile.sweep, dwell_ms=_DWELL_MS, flush=None).hot_ns
    finally:
        session.close()
    return min(hot_ns) / 1e6, float(np.median(hot_ns)) / 1e6
