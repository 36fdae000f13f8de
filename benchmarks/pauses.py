"""Latency of a network that is called back to back, and after pauses: what the caches forget.

    python benchmarks/pauses.py [--device cpu-onnxruntime] [--seconds 20]

One network has many weights and one has few. Their calls with and without pauses are made in turn;
the process sleeps in a pause, as a program does that waits for the next image.
"""

from __future__ import annotations

import argparse
from time import monotonic, sleep

import numpy as np
from cells import heading

import nas
from latbench.blocks import Network
from latbench.cost import network_cost
from latbench.device_files import load_device
from latbench.measure.lock import held
from latbench.measure.statistics import low_quantile
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table

PAUSES_MS = (0.0, 0.5, 1.0, 2.0, 4.0, 10.0)
CALLS = 20  # in a row with one pause; the first is not counted
QUANTILE = 0.05


def main() -> None:
    """Measure both networks and print a row for each."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--device", default="cpu-onnxruntime")
    arguments.add_argument("--seconds", type=float, default=20.0)
    asked = arguments.parse_args()
    profiler = make_profiler(load_device(asked.device))
    rows = []
    for network in _networks():
        taken: dict[float, list[int]] = {pause: [] for pause in PAUSES_MS}
        session, rng = profiler.open(network), np.random.default_rng(0)
        end = monotonic() + asked.seconds
        with held(profiler):
            while monotonic() < end:
                for pause in rng.permutation(PAUSES_MS).tolist():
                    session.call()
                    for _ in range(CALLS):
                        if pause:
                            sleep(pause / 1e3)
                        taken[pause].append(session.timed_call())
        session.close()
        found = [low_quantile(np.array(taken[pause]) / 1e3, QUANTILE) for pause in PAUSES_MS]
        medians = [float(np.median(taken[pause])) / 1e3 for pause in PAUSES_MS]
        size = f"{network_cost(network).weight_bytes / 1e6:.2f} MB"
        rows.append((f"{size}, 5 % quantile", *(f"{each:.0f} µs" for each in found)))
        rows.append((f"{size}, median", *(f"{each:.0f} µs" for each in medians)))
    print_lines(heading(profiler.versions()))
    print_table(("weights", *(f"{pause:g} ms" for pause in PAUSES_MS)), rows)


def _networks() -> list[Network]:
    """A random network of TF-NAS with 12 to 13 MB of weights, and its first six blocks."""
    space, rng = nas.make_space("tfnas", 32, 10), np.random.default_rng(0)
    while True:
        network = space.lower(space.random(rng))
        if 12e6 < network_cost(network).weight_bytes < 13e6:
            return [network, network[:6]]


if __name__ == "__main__":
    main()
