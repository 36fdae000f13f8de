"""What the tools themselves take: rendering, predicting, fitting, starting.

    python benchmarks/overheads.py TABLE

Prints machine, versions and spread; every figure is over all blocks of the table's space, or over
as many repetitions as the row says.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

import numpy as np

from latbench.blocks import Network, network_graph
from latbench.blocks.norm_folding import fold_norms
from latbench.environment import current_environment
from latbench.render.onnx import render_onnx_apart
from latbench.render.parameters import random_parameters
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import fit_exact, fit_greedy
from nas.spaces import make_space

_NETWORKS = 200
_STARTS = 15


def main() -> None:
    """Time each operation and print a row a piece."""
    parser = ArgumentParser(description="What the tools themselves take.")
    parser.add_argument("table", type=Path)
    path: Path = parser.parse_args().table
    table = LatencyTable.open(path)
    label = table.space
    space = make_space(label.name, label.input_size, label.classes)
    priced = PricedSpace(space, table)
    rng = np.random.default_rng(0)
    architectures = [space.random(rng, priced.widths) for _ in range(_NETWORKS)]
    networks = [space.lower(architecture) for architecture in architectures]
    median_ms = float(np.median([table.predict(n).latency_ms for n in networks]))

    environment = current_environment(table.environment.versions)
    print_lines(
        [
            f"{environment.cpu}, {environment.cores} cores, {environment.system}",
            "  ".join(f"{name} {version}" for name, version in environment.versions.items()),
            f"command: python benchmarks/overheads.py {path.name} ({label})",
            "",
        ]
    )
    _render(networks[0])  # makes the pool that all weights are cut from
    for architecture in architectures:  # what is remembered between calls is filled here
        fit_greedy(priced, architecture, median_ms, clamp=True)
    reachable = [a for a in architectures if _reaches(priced, a, median_ms)]
    rows = [
        _row("render a block to ONNX", [lambda s=s: _render((s,)) for s in space.blocks()]),
        _row("render a network to ONNX", [lambda n=n: _render(n) for n in networks]),
        _row("open a table", [lambda: LatencyTable.open(path)] * 10),
        _row("predict an architecture", [lambda a=a: priced.latency_ms(a) for a in architectures]),
        _row("fit exact", [lambda a=a: fit_exact(priced, a, median_ms) for a in reachable]),
        _row("fit greedy", [lambda a=a: fit_greedy(priced, a, median_ms) for a in reachable]),
        _row("latbench --help", [_help] * _STARTS),
    ]
    print_table(("ms", "times", "min", "median", "p95", "max"), rows)


def _render(network: Network) -> None:
    """The model's bytes and its random weights beside them, as profiling has it."""
    graph = fold_norms(network_graph(network))
    render_onnx_apart(graph).SerializeToString()
    random_parameters(graph)


def _reaches(priced: PricedSpace, architecture: object, target_ms: float) -> bool:
    fitted = fit_greedy(priced, architecture, target_ms, clamp=True)  # type: ignore[arg-type]
    return fitted.min_ms <= target_ms <= fitted.max_ms


def _help() -> None:
    subprocess.run([sys.executable, "-m", "cli", "--help"], check=True, capture_output=True)


def _row(name: str, calls: Iterable[Callable[[], object]]) -> tuple[str, ...]:
    times_ms = []
    for call in calls:
        begin = perf_counter()
        call()
        times_ms.append((perf_counter() - begin) * 1e3)
    spread = (np.min(times_ms), *np.quantile(times_ms, (0.5, 0.95)), np.max(times_ms))
    return (name, str(len(times_ms)), *(f"{value:.3g}" for value in spread))


if __name__ == "__main__":
    main()
