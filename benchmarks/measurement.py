"""The customary protocol and this one on the same blocks and the same networks, in one run.

    python benchmarks/measurement.py TABLE [--networks 12] [--widths 300] [--seed 7]

TABLE was filled by `latbench profile` on this machine. Whole networks that it was not fitted on are
measured as `latbench verify` does. Both sides predict them: the table, and the customary sum of
blocks, each measured alone, 100 calls to warm up and the mean of 1000. Then random widths that the
table has not measured are measured and compared with its interpolation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from latbench.blocks import BlockSpec, Network, block_width
from latbench.environment import current_environment
from latbench.measure.lock import held
from latbench.measure.samples import Samples
from latbench.measure.statistics import kendall_tau
from latbench.measure.sweep import sweep_pass
from latbench.measure.visiting import block_target
from latbench.profilers import Profiler, make_profiler
from latbench.report.terminal import print_lines, print_table, progress_bar
from latbench.tables import LatencyTable, TableStore
from latbench.units import format_ms, format_s
from latbench.workflows.network_errors import Verification, verify
from nas.latency.priced_space import PricedSpace
from nas.spaces import every_width, make_space

WARMUP_CALLS, TIMED_CALLS = 100, 1000  # of the customary protocol
WIDTH_PASSES = 30
PROBES = 60  # measured blocks visited again, to know the drift since the profiling


def main() -> None:
    """Measure both ways and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--widths", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    table = LatencyTable.open(asked.table)
    label = table.space
    space = make_space(label.name, label.input_size, label.classes)
    priced = PricedSpace(space, table, efficient=True)
    profiler = make_profiler(table.device)
    environment = current_environment(profiler.versions())
    print_lines(
        [
            f"{environment.cpu}, {environment.cores} cores, {environment.system}",
            "  ".join(f"{name} {version}" for name, version in environment.versions.items()),
            f"{label} on {table.device.name}, {environment.taken_at}; command: python "
            f"benchmarks/measurement.py {asked.table.name} --networks {asked.networks} --widths "
            f"{asked.widths} --seed {asked.seed}",
            "",
        ]
    )
    rng = np.random.default_rng(asked.seed)
    networks = [space.lower(space.random(rng, priced.widths)) for _ in range(asked.networks)]
    _compare_networks(profiler, table, networks, everything=space.blocks(every_width))
    _compare_widths(profiler, table, space.blocks(every_width), count=asked.widths, rng=rng)


def _compare_networks(
    profiler: Profiler,
    table: LatencyTable,
    networks: Sequence[Network],
    *,
    everything: Sequence[BlockSpec],
) -> None:
    """Measure blocks the customary way and whole networks; print both predictions and their cost.

    Args:
        profiler: Profiler of the table's device.
        table: The table.
        networks: Networks that the table was not fitted on.
        everything: All blocks of the space.
    """
    means_ms, customary_s = _customary_table(profiler, networks)
    with progress_bar("networks") as progress:
        verified = verify(profiler, table, networks, progress=progress)
    measured = np.array([row.measured.estimate_ms for row in verified.networks])
    summed = np.array([sum(means_ms[spec] for spec in network) for network in networks])
    ours_s, calls = _profiling_cost(profiler, table)
    # other widths are slower than those of the networks: the table knows by how much
    whole_s = customary_s * _summed_ms(table, everything) / _summed_ms(table, [*means_ms])
    errors = np.abs(summed / measured - 1)
    customary_row = (
        "customary: block alone, mean of 1000 calls",
        f"{errors.mean():.1%}",
        f"{errors.max():.1%}",
        f"{kendall_tau(list(summed), list(measured)):.3f}",
        f"{format_s(whole_s)} (extrapolated)",
        f"{len(everything) * (WARMUP_CALLS + TIMED_CALLS):,}",
    )
    print_table(
        ("networks", "mean error", "largest", "rank", "all widths", "calls"),
        [customary_row, *_rows_of_table(verified, ours_s, calls)],
    )
    print_lines(
        [
            f"{len(networks)} networks of {format_ms(measured.min())} to "
            f"{format_ms(measured.max())}; {len(means_ms)} blocks the customary way in "
            f"{format_s(customary_s)}; a customary table of all {len(everything)} would take "
            f"{whole_s / ours_s:.0f} times as long as this one took",
            "",
        ]
    )


def _customary_table(
    profiler: Profiler, networks: Sequence[Network]
) -> tuple[dict[BlockSpec, float], float]:
    """Mean latency in ms of every block of the networks, measured alone; seconds it took."""
    blocks = sorted({spec for network in networks for spec in network}, key=repr)
    with progress_bar("customary") as progress:
        begin, means_ms = perf_counter(), {}
        with held(profiler):
            for done, spec in enumerate(blocks):
                means_ms[spec] = _customary_ms(profiler, spec)
                progress((done + 1) / len(blocks), f"{done + 1} of {len(blocks)} blocks")
        return means_ms, perf_counter() - begin


def _profiling_cost(profiler: Profiler, table: LatencyTable) -> tuple[float, int]:
    """Seconds and calls of the profiling that filled the table."""
    with TableStore.open(table.path) as store:
        sweep = store.profiling()
        if sweep is None:
            raise SystemExit(f"{table.path} was not measured here: profile this machine first")
        calls = sum(
            len(visit.hot_ns) + len(visit.cold_ns) + profiler.profile.sweep.warmup_calls
            for _, visit in store.visits(sweep)
        )
        return store.timing(sweep)["seconds"], calls


def _rows_of_table(verified: Verification, ours_s: float, calls: int) -> list[tuple[str, ...]]:
    """Errors of this project's table, and the floor of any."""
    return [
        (
            "this table, as measured",
            f"{verified.mape:.1%}",
            f"{verified.max_error:.1%}",
            f"{verified.kendall_tau:.3f}",
            format_s(ours_s),
            f"{calls:,}",
        ),
        (
            "this table, drift taken out",
            _percent(verified.mape_drift_corrected),
            _percent(verified.max_error_drift_corrected),
            *("", "", ""),
        ),
        ("floor: networks against themselves", _percent(verified.floor), *("", "", "", "")),
    ]


def _summed_ms(table: LatencyTable, blocks: Sequence[BlockSpec]) -> float:
    found = (table.estimates.get(spec) or table.curves.between(spec) for spec in blocks)
    return sum(e.hot_ms for e in found if e is not None)


def _customary_ms(profiler: Profiler, spec: BlockSpec) -> float:
    session = profiler.open((spec,))
    try:
        for _ in range(WARMUP_CALLS):
            session.call()
        begin = perf_counter()
        for _ in range(TIMED_CALLS):
            session.call()
        return (perf_counter() - begin) / TIMED_CALLS * 1e3
    finally:
        session.close()


def _compare_widths(
    profiler: Profiler,
    table: LatencyTable,
    blocks: Sequence[BlockSpec],
    *,
    count: int,
    rng: np.random.Generator,
) -> None:
    free = [spec for spec in blocks if spec in table and spec not in table.estimates]
    fresh = [free[i] for i in rng.choice(len(free), size=min(count, len(free)), replace=False)]
    known = [spec for spec in table.estimates if block_width(spec) is not None]
    probes = [known[i] for i in rng.choice(len(known), size=PROBES, replace=False)]
    protocol = profiler.profile.sweep
    targets = [block_target(i, (s,), protocol) for i, s in enumerate([*fresh, *probes])]
    samples = Samples()
    with progress_bar("widths") as progress, held(profiler):
        for number in range(WIDTH_PASSES):
            samples.add(sweep_pass(profiler, targets, number=number).visits)
            progress((number + 1) / WIDTH_PASSES, f"pass {number + 1} of {WIDTH_PASSES}")
    hot = samples.intervals(range(len(targets)), protocol.quantile)
    now = np.array([hot[i].estimate_ms for i in range(len(targets))])
    then = np.array([table.estimates[spec].hot_ms for spec in probes])
    drift = float(np.exp(np.mean(np.log(now[len(fresh) :] / then))))
    between = [table.curves.between(spec) for spec in fresh]
    predicted = np.array([e.hot_ms for e in between if e is not None])
    errors = np.abs(predicted * drift / now[: len(fresh)] - 1)
    probe_errors = np.abs(then * drift / now[len(fresh) :] - 1)
    print_table(
        ("widths that the table has not measured", "mean error", "95th percentile", "largest"),
        [
            (
                f"{len(fresh)} interpolated",
                *(f"{x:.1%}" for x in (errors.mean(), np.quantile(errors, 0.95), errors.max())),
            ),
            (
                f"floor: {PROBES} measured ones against themselves",
                *(
                    f"{x:.1%}"
                    for x in (
                        probe_errors.mean(),
                        np.quantile(probe_errors, 0.95),
                        probe_errors.max(),
                    )
                ),
            ),
        ],
    )
    print_lines([f"drift of {drift - 1:+.1%} since the profiling taken out of both"])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
