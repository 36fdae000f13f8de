"""Does the sequential design need a third of the uniform one's time on a simulated machine?

    python -m benchmarks.simulated_design [--space tfnas] [--input-size 224] [--classes 1000]
        [--uniform 20min] [--share 0.33] [--seeds 5] [--networks 100] [--noisier]

The machine's true latencies are known and its time is virtual, so nothing else may disturb and
nothing is waited for. Each seed profiles the space by the uniform design within the time limit, and
by both designs within a share of it. The error of a table is the mean difference between predicted
and true latencies of random networks, half of them of efficient widths and half of any.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest

import nas
from latbench.blocks import Network
from latbench.device import DesignName
from latbench.device_files import load_device
from latbench.report.terminal import print_table
from latbench.tables import LatencyTable
from latbench.units import as_duration_s
from latbench.workflows import profiling
from nas.latency.priced_space import PricedSpace
from nas.latency.table_contents import space_contents
from nas.spaces import SPACES, SearchSpace, every_width
from tests.simulated_machine import Noise, SimulatedMachine, keep_time

MOST_PASSES = 1000  # the time limit comes first
NOISIER = Noise(drift=0.002, quiet=0.3, session=0.03, misfit=0.0)


def main() -> None:
    """Profile by both designs, and print the errors."""
    arguments = ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--space", default="tfnas", choices=[*SPACES])
    arguments.add_argument("--input-size", type=int, default=224)
    arguments.add_argument("--classes", type=int, default=1000)
    arguments.add_argument("--uniform", default="20min", help="time limit of the uniform design")
    arguments.add_argument("--share", type=float, default=1 / 3, help="of it, for both designs")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--networks", type=int, default=100)
    arguments.add_argument("--noisier", action="store_true", help="no misfit, more other programs")
    asked = arguments.parse_args()
    space = nas.make_space(asked.space, asked.input_size, asked.classes)
    noise = NOISIER if asked.noisier else Noise()
    whole_s = as_duration_s(asked.uniform)
    designs: list[tuple[DesignName, float]] = [
        ("uniform", whole_s),
        ("uniform", asked.share * whole_s),
        ("sequential", asked.share * whole_s),
    ]
    rows = []
    for design, limit_s in designs:
        found = np.array(
            [
                profiled(space, noise, design, limit_s=limit_s, seed=seed, count=asked.networks)
                for seed in range(asked.seeds)
            ]
        )  # (seeds, 3)
        taken_s, passes, error = found.mean(axis=0)
        doubt = found[:, 2].std() / max(1, asked.seeds - 1) ** 0.5  # standard error over seeds
        words = f"{error:.2%} ± {doubt:.2%}"
        rows.append((design, f"{taken_s:.0f} s", f"{passes:.0f}", words))
    print_table(("design", "time", "passes", "mean error"), rows)


def profiled(
    space: SearchSpace,
    noise: Noise,
    design: DesignName,
    *,
    limit_s: float,
    seed: int,
    count: int,
) -> tuple[float, int, float]:
    """Virtual time and passes of a profiling, and the mean error of its table."""
    device = load_device("cpu-onnxruntime")
    sweep = msgspec.structs.replace(device.sweep, design=design, max_passes=MOST_PASSES)
    machine = SimulatedMachine(msgspec.structs.replace(device, sweep=sweep), noise, seed=seed)
    contents = space_contents(space, sweep.networks)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        keep_time(machine, patched)
        path = Path(folder) / "table.sqlite"
        made = profiling.profile(machine, path, contents, time_limit_s=limit_s)
        table = LatencyTable.open(path)
        errors = [
            abs(table.predict(each).latency_ms / machine.true_ms(each)[0] - 1)
            for each in _drawn(space, table, seed, count)
        ]
    return machine.now_s, made.passes, float(np.mean(errors))


def _drawn(space: SearchSpace, table: LatencyTable, seed: int, count: int) -> list[Network]:
    """Random networks, half of efficient widths and half of any."""
    rng = np.random.default_rng([seed, 7])
    efficient = PricedSpace(space, table, efficient=True).widths
    kinds = (efficient, every_width)
    return [space.lower(space.random(rng, kinds[i % 2])) for i in range(count)]


if __name__ == "__main__":
    main()
