"""Forecast of a profiling run: its passes, its time and its memory, from a short measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from latbench.cost import network_cost
from latbench.measure.lock import held
from latbench.measure.sweep import sweep_pass
from latbench.measure.visiting import block_target, network_target
from latbench.profilers import Profiler
from latbench.profilers.remote import RemoteProfiler
from latbench.progress import Progress, silent
from latbench.result import Result
from latbench.workflows.footprint import peak_bytes
from latbench.workflows.profiled_table import TableContents
from latbench.workflows.width_plan import likely_blocks

_SAMPLED = 40  # number of blocks that a forecast visits
_COPIES = 4  # copies of a network's weights in memory while the runtime opens a session


@dataclass(frozen=True, repr=False)
class Forecast(Result):
    """Expected size, duration and memory of a profiling run.

    Attributes:
        blocks: Number of blocks that would have a price.
        measured: Approximate number of blocks that would be measured.
        networks: Number of networks that the prices would be fitted on.
        pass_s: Duration of one pass over all blocks and networks, in s. Later passes of the
            sequential design are shorter.
        minutes: Duration of the minimum number of passes, if each visits all blocks, in minutes.
        passes: Number of passes over all blocks that the time limit allows.
        memory_mib: Approximate peak memory of the process, in MiB; None for a device elsewhere.
    """

    blocks: int
    measured: int
    networks: int
    pass_s: float
    minutes: float
    passes: int
    memory_mib: int | None


def forecast(
    profiler: Profiler,
    contents: TableContents,
    *,
    time_limit_s: float,
    progress: Progress = silent,
) -> Forecast:
    """Predict the duration and memory of ``profile`` by visiting a sample of its targets.

    Raises:
        DeviceBusyError: Another process measures on the device.
        RuntimeFailure: The runtime refused a block.
    """
    protocol = profiler.profile.sweep
    networks = contents.networks
    measured = likely_blocks(contents.blocks)
    rng = np.random.default_rng(0)
    drawn = rng.choice(len(measured), size=min(_SAMPLED, len(measured)), replace=False)
    sample = [block_target(0, (measured[i],), protocol) for i in drawn]
    few = [network_target(1, n, protocol, visits=1) for n in (networks[0], networks[-1])]
    visits = 2 * len(sample) + len(few)

    def report(before: int) -> Callable[[int, int], None]:
        return lambda done, _: progress((before + done) / visits, f"visit {before + done}")

    with held(profiler):
        # not timed: it does the work that is done only once
        sweep_pass(profiler, sample, number=0, on_visit=report(0))
        timed = sweep_pass(profiler, sample, number=1, on_visit=report(len(sample)))
        block_s = timed.seconds / len(sample)
        timed = sweep_pass(profiler, few, number=1, on_visit=report(2 * len(sample)))
        network_s = timed.seconds / len(few)
    pass_s = len(measured) * block_s + len(networks) * protocol.network_visits * network_s
    largest = max(network_cost(network).weight_bytes for network in networks)
    is_remote = isinstance(profiler, RemoteProfiler)
    return Forecast(
        blocks=len(contents.blocks),
        measured=len(measured),
        networks=len(networks),
        pass_s=pass_s,
        minutes=protocol.min_passes * pass_s / 60,
        passes=max(1, min(protocol.max_passes, int(time_limit_s / pass_s))),
        memory_mib=None if is_remote else (peak_bytes() + _COPIES * largest) >> 20,
    )
