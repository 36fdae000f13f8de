"""Networks of ``quality.py`` brought to one measured latency.

Sizes are tried in rounds; a round measures all networks in one interleaved sweep, because another
minute's machine has other latencies. A line through the latencies of a round, in logarithms, gives
the sizes of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from cells import Clock
from numpy.typing import NDArray
from quality_rivals import Rival

from latbench.blocks import Network
from latbench.profilers import make_profiler
from latbench.progress import Progress
from latbench.report.terminal import print_lines
from latbench.tables import LatencyTable
from latbench.workflows.apart import DIED, run_apart
from latbench.workflows.network_sweep import measure_networks

Floats = NDArray[np.float64]

TOLERANCE = 0.01  # of the first rival's latency
ROUNDS = 8
_QUICK_VISITS = 12  # of a network, while its size is looked for
_SLOPES = (0.7, 2.0)  # of log latency over log size, at least and at most
_LONGEST_STEP = np.log(2.5)
_SPREAD = (0.97, 0.99, 1.0, 1.01, 1.03)  # sizes tried around the best guess


def match(path: Path, rivals: Sequence[Rival], clock: Clock) -> dict[str, dict[str, float]]:
    """Sizes at which all rivals have the latency of the first, within ``TOLERANCE`` if possible.

    Widths are rounded, so some networks cannot come so near: one that is the nearest in two rounds
    counts as the best that there is.

    Args:
        path: Table of the device; it takes up what is measured.
        rivals: The rivals. The first stays at size 1.
        clock: Ends the search for sizes.

    Returns:
        By rival, its size, and its latency in ms in a last sweep of all visits.
    """
    first, *others = rivals
    slopes: dict[str, float] = {}
    guesses = {rival.name: [*rival.sizes] for rival in others}
    nearest: dict[str, Network] = {}
    best: dict[str, float] = {}
    for number in range(ROUNDS):
        clock.check()
        pairs = [(rival, size) for rival in others for size in guesses[rival.name]]
        networks = [first.make(1.0), *(rival.make(size) for rival, size in pairs)]
        first_ms, *others_ms = measure_ms(path, networks, visits=_QUICK_VISITS)
        ratios: dict[str, dict[float, float]] = {rival.name: {} for rival in others}
        for (rival, size), ms in zip(pairs, others_ms, strict=True):
            ratios[rival.name][size] = ms / first_ms
        best = {
            name: min(found, key=lambda s, f=found: (abs(f[s] - 1), abs(np.log(s))))
            for name, found in ratios.items()
        }
        away = {name: ratios[name][size] - 1 for name, size in best.items()}
        words = (f"{name} x{best[name]:.4f} {away[name]:+.2%}" for name in best)
        print_lines([f"round {number + 1}: {first.name} {first_ms:.4g} ms, " + ", ".join(words)])
        before, nearest = nearest, {rival.name: rival.make(best[rival.name]) for rival in others}
        if all(abs(away[n]) <= TOLERANCE or nearest[n] == before.get(n) for n in nearest):
            break
        for name, found in ratios.items():
            if name in slopes:
                middle = _corrected(found, slopes[name])
            else:
                middle, slopes[name] = _where_equal(found)
            guesses[name] = sorted({best[name], *(middle * spread for spread in _SPREAD)})
    sizes = {first.name: 1.0, **best}
    found_ms = measure_ms(path, [rival.make(sizes[rival.name]) for rival in rivals])
    return {
        rival.name: {"size": sizes[rival.name], "measured_ms": ms}
        for rival, ms in zip(rivals, found_ms, strict=True)
    }


def _where_equal(ratios: dict[float, float]) -> tuple[float, float]:
    """The size at which latency equals, and the slope of latency there, in logarithms.

    From the two sizes around it, or the two nearest.

    Args:
        ratios: By size, far from each other, latency over that of the first rival.
    """
    sizes, away = _logarithms(ratios)
    above = int(np.clip(np.searchsorted(away, 0.0), 1, len(away) - 1))
    rise = away[above] - away[above - 1]
    slope = float(np.clip(rise / (sizes[above] - sizes[above - 1]), *_SLOPES))
    nearest = min(above - 1, above, key=lambda i: abs(away[i]))
    return _along(slope, sizes[nearest], away[nearest]), slope


def _corrected(ratios: dict[float, float], slope: float) -> float:
    """The same from sizes near each other, whose own slope is lost in their noise.

    Of one round alone: what earlier ones measured was another minute's machine.
    """
    sizes, away = _logarithms(ratios)
    return _along(slope, sizes.mean(), away.mean())


def _logarithms(ratios: dict[float, float]) -> tuple[Floats, Floats]:
    """Sizes and ratios, by ascending size."""
    sizes = sorted(ratios)
    return np.log(sizes), np.log([ratios[m] for m in sizes])


def _along(slope: float, size: float, away: float) -> float:
    """Where a line through a point of logarithms says equal; not too far from the point."""
    return float(np.exp(size + np.clip(-away / slope, -_LONGEST_STEP, _LONGEST_STEP)))


def measure_ms(
    path: Path, networks: Sequence[Network], *, visits: int | None = None
) -> list[float]:
    """Latencies in ms of one interleaved sweep, of equal networks the same.

    They are measured in a process of its own: a training that ran before would slow them down.

    Args:
        path: Table of the device.
        networks: The networks.
        visits: Visits of a network; None are those of a verification.
    """
    return run_apart(_measured_ms, path, [*networks], visits, died=DIED)


def _measured_ms(
    path: Path, networks: Sequence[Network], visits: int | None, progress: Progress
) -> list[float]:
    table = LatencyTable.open(path)
    device = table.device
    if visits is not None:
        sweep = msgspec.structs.replace(device.sweep, verify_visits=visits)
        device = msgspec.structs.replace(device, sweep=sweep)
    distinct = list(dict.fromkeys(networks))
    found = measure_networks(make_profiler(device), table, distinct, purpose="verification")
    latencies = {n: i.estimate_ms for n, i in zip(distinct, found.measured, strict=True)}
    return [latencies[network] for network in networks]
