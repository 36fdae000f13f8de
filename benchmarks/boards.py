"""Many boards at once: profiles of boards that are simulated over pipes, with random deaths.

    python benchmarks/boards.py [--boards 200] [--dead 0.1] [--breaks 0.01]

Only the boards' times are simulated: each has its command, its line, its thread and its table, as a
real one. A tenth of them dies for good in the middle, and lines break at random. The table of every
survivor must be whole: it predicts every network as the board computes it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
from cells import heading
from fake_boards import block_ms, fake_boards

import nas
from latbench.blocks import block_key
from latbench.device import SweepProtocol
from latbench.profilers import remote_connection
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable

SWEEP = SweepProtocol(min_passes=20, max_passes=20, networks=16)
PAUSES_S = (0.1,) * 3


def main() -> None:
    """Profile all boards and print what became of them."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--boards", type=int, default=200)
    arguments.add_argument("--dead", type=float, default=0.1)
    arguments.add_argument("--breaks", type=float, default=0.01)
    asked = arguments.parse_args()
    remote_connection._PAUSES_S = PAUSES_S  # a board that is dead stays dead
    names = [f"board{number}" for number in range(asked.boards)]
    dead = frozenset(names[:: round(1 / asked.dead)] if asked.dead else [])
    space = nas.make_space("nasbench-macro")
    rows = []
    for count in sorted({1, max(1, asked.boards // 10), asked.boards}):
        with (
            fake_boards(breaks=asked.breaks, dead=dead) as boards,
            tempfile.TemporaryDirectory() as folder,
        ):
            begin = perf_counter()
            profiles = [boards.profile(name, SWEEP) for name in names[:count]]
            found = nas.profile_devices(profiles, space, folder)
            seconds = perf_counter() - begin
            failed = {each.device for each in found if each.error}
            whole = sum(_is_whole(each.table) for each in found if not each.error)
            expected = {name for name in names[:count] if name in dead}
            assert failed == expected, f"{failed ^ expected} ended otherwise"
            rows.append(
                (str(count), str(len(failed)), str(boards.broken), str(whole), f"{seconds:.1f} s")
            )
    print_lines(heading({"msgspec": msgspec.__version__}))
    print_table(("boards", "died", "lines broken", "whole tables", "time"), rows)


def _is_whole(path: Path) -> bool:
    """Whether a table has every pass, and predicts networks as its board computes them."""
    table = LatencyTable.open(path)
    space, rng = nas.make_space("nasbench-macro"), np.random.default_rng(0)
    errors = []
    for _ in range(10):
        network = space.lower(space.random(rng))
        truth_ms = sum(block_ms(block_key(spec)) for spec in network)
        errors.append(abs(table.predict(network).latency_ms / truth_ms - 1))
    visited = all(each.visits >= SWEEP.min_passes for each in table.estimates.values())
    return visited and max(errors) < 0.01


if __name__ == "__main__":
    main()
