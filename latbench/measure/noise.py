"""Noise check of a device (`devices --check`): reference networks measured for a minute, advice.

Three reference targets separate three kinds of noise: a block whose data fits the cache of its
core, a network whose weights fit the shared caches, and a network whose weights do not. On a shared
machine, the latency of the first can be stable while that of the last is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import msgspec
import numpy as np

from latbench.blocks import Classifier, ConvBlock, InvertedResidual, Network
from latbench.device import DeviceProfile
from latbench.environment import Environment, processor_folder, read_system
from latbench.errors import RuntimeFailure
from latbench.measure.load import LoadMeter, MachineLoad
from latbench.measure.samples import Interval, Samples
from latbench.measure.statistics import low_quantile
from latbench.measure.sweep import fraction_done, sweep_pass
from latbench.measure.visiting import Target
from latbench.profilers import Profiler
from latbench.profilers.remote import RemoteProfiler
from latbench.progress import Progress, silent
from latbench.result import Result

_WINDOWS = 4  # parts of the measuring time that are compared with each other
_DWELL_MS = 20.0
_MAP_SIZE = 4  # px
_QUIET = 0.02  # noise and drift below which nothing needs to be done
_FEW_OTHERS = 0.3  # processors that other processes may use without a remark
_CPU = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class TargetNoise:
    """Noise of one reference target.

    Attributes:
        name: Description of the target.
        latency_ms: Low quantile over all visits.
        noise: Median over visits divided by the low quantile, minus 1.
        drift: Largest low quantile of a part of the time divided by the smallest, minus 1.
        half_width: Relative half width of the 95 % interval of the low quantile.
    """

    name: str
    latency_ms: float
    noise: float
    drift: float
    half_width: float


@dataclass(frozen=True, repr=False)
class NoiseCheck(Result):
    """Result of the noise check of a device.

    Attributes:
        targets: Noise of each reference target.
        tolerance: Smallest relative error of a network's latency that can be detected on this
            device now: the largest drift or half width.
        visits: Number of visits to each target.
        advice: Suggested changes to the machine, the most effective first.
    """

    targets: tuple[TargetNoise, ...]
    tolerance: float
    visits: int
    advice: tuple[str, ...]


def _network(channels: int, width: int, blocks: int) -> Network:
    """Network with maps so small that the loading of its weights dominates the latency."""
    block = InvertedResidual(channels, channels, width, 3, 1, "relu", _MAP_SIZE)
    stem = ConvBlock(3, channels, 3, 1, "relu", _MAP_SIZE)
    return (stem, *[block] * blocks, Classifier(channels, 10, _MAP_SIZE))


REFERENCES: dict[str, Network] = {
    "a block in its core's own cache": (InvertedResidual(40, 40, 160, 3, 1, "relu", 14),),
    "a network of 4 MB of weights": _network(80, 320, 19),
    "a network of 20 MB of weights": _network(160, 960, 16),
}


def check_noise(
    profiler: Profiler,
    environment: Environment,
    *,
    seconds: float,
    progress: Progress = silent,
) -> NoiseCheck:
    """Measure the reference targets in turn.

    Args:
        profiler: Profiler of the device.
        environment: Present state of the machine.
        seconds: Approximate duration in s.
        progress: Callback that reports the progress.

    Raises:
        RuntimeFailure: The device cannot be used or reached.
    """
    if isinstance(profiler, RemoteProfiler):
        try:
            return msgspec.convert(profiler.noise(seconds, progress), NoiseCheck)
        except msgspec.ValidationError as error:
            raise RuntimeFailure(f"{profiler.host} sent no noise check: {error}") from error
    targets = [
        Target(id_, network, visits=1, dwell_ms=_DWELL_MS, cold=False)
        for id_, network in enumerate(REFERENCES.values())
    ]
    samples, begin, meter, passes = Samples(), monotonic(), LoadMeter(), 0
    while passes < 2 * _WINDOWS or monotonic() - begin < seconds:

        def visited(done: int, total: int, number: int = passes) -> None:
            spent_s, made = monotonic() - begin, number + done / total
            left_s = max(seconds - spent_s, spent_s * (2 * _WINDOWS / made - 1))
            progress(fraction_done(spent_s, left_s), f"pass {number + 1}")

        samples.add(sweep_pass(profiler, targets, number=passes, on_visit=visited).visits)
        passes += 1
    quantile = profiler.profile.sweep.quantile
    intervals = samples.intervals(range(len(targets)), quantile)
    found = [
        _noise_of(name, samples.hot_ms[id_], intervals[id_], quantile=quantile)
        for id_, name in enumerate(REFERENCES)
    ]
    return NoiseCheck(
        tuple(found),
        tolerance=max(max(target.drift, target.half_width) for target in found),
        visits=passes,
        advice=(
            *([f"the device was throttled: {profiler.spoilt}"] if profiler.spoilt else []),
            *_advice(profiler.profile, environment, found, meter.read()),
        ),
    )


def _noise_of(
    name: str, visits_ms: Sequence[float], interval: Interval, *, quantile: float
) -> TargetNoise:
    """Noise of a target over its visits, and its drift over the parts of the check."""
    stretches = [low_quantile(part, quantile) for part in np.array_split(visits_ms, _WINDOWS)]
    return TargetNoise(
        name,
        interval.estimate_ms,
        noise=float(np.median(visits_ms)) / interval.estimate_ms - 1,
        drift=float(max(stretches) / min(stretches)) - 1,
        half_width=interval.half_width,
    )


def governor_advice(environment: Environment) -> list[str]:
    """Suggested change of the frequency governor, if one helps."""
    if environment.governor in (None, "performance"):
        return []
    return [
        f"the frequency governor is {environment.governor}: `cpupower frequency-set -g performance`"
    ]


def _advice(
    profile: DeviceProfile,
    environment: Environment,
    found: list[TargetNoise],
    load: MachineLoad | None,
) -> list[str]:
    """Suggested changes to the machine, for settings that may explain the measured noise."""
    if all(max(t.noise, t.drift) < _QUIET for t in found):
        return []
    advice = []
    if load is not None and load.others > _FEW_OTHERS:
        advice.append(f"other processes use {load.others:.1f} processors: stop them")
    advice += governor_advice(environment)
    no_turbo, boost = (
        read_system(_CPU / name) for name in ("intel_pstate/no_turbo", "cpufreq/boost")
    )
    if no_turbo == "0" or boost == "1":
        advice.append(
            "turbo frequencies depend on temperature and on other programs: switch them off"
        )
    if profile.threads > environment.cores:
        advice.append(
            f"{profile.threads} threads share {environment.cores} processors: lower `threads`"
        )
    siblings = read_system(processor_folder() / "topology/thread_siblings_list") or "0"
    if len(re.split("[,-]", siblings)) > 1:
        advice.append(
            f"processors {siblings} are threads of one core: pin with `taskset -c` and keep the "
            "sibling idle, or switch hyperthreading off"
        )
    if re.search(r"^flags.*\bhypervisor\b", read_system(Path("/proc/cpuinfo")) or "", re.MULTILINE):
        advice.append(
            "this is a virtual machine: others share its cores, caches and memory, and "
            "nothing inside it can prevent that; measure on a dedicated host, or for longer and at "
            "quiet hours"
        )
    first, last = found[0], found[-1]
    if last.drift > 2 * max(first.drift, _QUIET):
        advice.append(
            "networks of many weights drift more than blocks: the shared caches or the memory "
            "are in use by others"
        )
    return advice
