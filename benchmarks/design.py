"""Does the sequential design need a third of the uniform one's time for tables as accurate?

    python benchmarks/design.py -o RUN --hours 3 [--device cpu-onnxruntime] [--space tfnas]
        [--input-size 224] [--classes 1000] [--uniform 20min] [--sequential 7min] [--rounds 3]
        [--networks 24] [--max-passes 1000]

Each round profiles the space by both designs, which take turns in being first. Each table is
verified right after its profiling, on the same random networks: some of efficient widths, and as
many of any widths. The first table of a round says which widths are efficient. The same command
goes on with what is missing, also within a profiling, until its own time limit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cells import Clock, Progress, chosen, heading, parser, results, run_cells, shown
from numpy.typing import NDArray

import nas
from latbench.device_files import load_device
from latbench.files import write_atomically
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable, TableStore
from latbench.units import as_duration_s
from latbench.workflows.network_errors import verify_apart
from nas.latency.priced_space import PricedSpace
from nas.spaces import SPACES, Architecture, SearchSpace, distinct_random, every_width

DESIGNS = ("uniform", "sequential")
KINDS = ("efficient", "any")
DIFFERENCES = ("widths", "as measured", "drift taken out", "n")
COLUMNS = ("design", "time", "passes", "widths", "as measured", "largest", "drift taken out", "n")


def main() -> None:
    """Profile and verify what is missing, and print all that is there."""
    arguments = parser(__doc__, one_target=False)
    arguments.add_argument("--device", default="cpu-onnxruntime")
    arguments.add_argument("--space", default="tfnas", choices=[*SPACES])
    arguments.add_argument("--input-size", type=int, default=224)
    arguments.add_argument("--classes", type=int, default=1000)
    for name, limit in zip(DESIGNS, ("20min", "7min"), strict=True):
        arguments.add_argument(f"--{name}", default=limit, help="time limit of its profilings")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--networks", type=int, default=24, help="verified, of each kind")
    arguments.add_argument("--max-passes", type=int, default=1000, help="of a profiling")
    asked = arguments.parse_args()
    space = nas.make_space(asked.space, asked.input_size, asked.classes)
    in_turn = [
        (design, number)
        for number in range(asked.rounds)
        for design in (DESIGNS if number % 2 == 0 else DESIGNS[::-1])
    ]

    def work(design: str, number: int, run: Path, progress: Progress) -> dict[str, Any]:
        path = run / "table.sqlite"
        limit_s = as_duration_s(getattr(asked, design))
        profile = load_device(asked.device)
        sweep = msgspec.structs.replace(profile.sweep, design=design, max_passes=asked.max_passes)
        _fill(msgspec.structs.replace(profile, sweep=sweep), space, path, limit_s, progress)
        drawn = _drawn(asked.output, space, path, number, asked.networks)
        return _verified(space, path, drawn, progress)

    common = ("device", "space", "input_size", "classes", "networks", "max_passes")
    settings = chosen(asked, *common, *DESIGNS)
    run_cells(asked.output, in_turn, work, Clock(asked.hours), settings=settings)
    print_lines(heading(make_profiler(load_device(asked.device)).versions()))
    rows = [_row(asked.output, design, kind) for design in DESIGNS for kind in KINDS]
    print_table(COLUMNS, rows)
    print_lines(["", "error of sequential minus that of uniform, points:"])
    print_table(DIFFERENCES, [_behind(asked.output, kind) for kind in KINDS])


def _fill(profile: Any, space: SearchSpace, path: Path, limit_s: float, progress: Progress) -> None:
    """Profile for the rest of the time limit, or until the profiling has converged."""
    done = path.with_name("profiled")
    if done.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    left_s = max(1e-3, limit_s - _spent_s(path))
    if nas.profile(profile, space, path, time_limit=left_s, progress=progress).result.interrupted:
        raise KeyboardInterrupt
    done.touch()


def _spent_s(path: Path) -> float:
    """Time of all finished passes, also of runs that were killed."""
    if not path.exists():
        return 0.0
    with TableStore.open(path) as store:
        sweep = store.profiling()
        return 0.0 if sweep is None else store.timing(sweep)["seconds"]


def _drawn(
    folder: Path, space: SearchSpace, path: Path, number: int, count: int
) -> dict[str, list[Architecture]]:
    """Networks of a round, the same for both designs."""
    kept = folder / f"networks-{number}.json"
    if not kept.exists():
        table = LatencyTable.open(path)
        efficient = PricedSpace(space, table, efficient=True).widths
        rng = np.random.default_rng([number, 7])
        drawn = {
            kind: distinct_random(space, count, rng, widths, without=table.networks)
            for kind, widths in zip(KINDS, (efficient, every_width), strict=True)
        }
        text = {kind: [each.as_dict() for each in found] for kind, found in drawn.items()}
        write_atomically(kept, json.dumps(text))
    read = json.loads(kept.read_text())
    return {
        kind: [msgspec.convert(each, Architecture) for each in found]
        for kind, found in read.items()
    }


def _verified(
    space: SearchSpace, path: Path, drawn: dict[str, list[Architecture]], progress: Progress
) -> dict[str, Any]:
    """Errors of a table at the networks of both kinds, measured in one sweep."""
    networks = [space.lower(each) for kind in KINDS for each in drawn[kind]]
    found = verify_apart(path, networks, progress=progress)
    with TableStore.open(path) as store:
        sweep = store.profiling()
        assert sweep is not None
        passes, seconds = store.passes(sweep), store.timing(sweep)["seconds"]
    errors: dict[str, Any] = {}
    begin = 0
    for kind in KINDS:
        rows = found.networks[begin : begin + len(drawn[kind])]
        begin += len(rows)
        errors[kind] = [[row.error, row.error_drift_corrected] for row in rows]
    return {"passes": passes, "seconds": seconds, "drift": found.drift, "errors": errors}


def _behind(folder: Path, kind: str) -> tuple[str, ...]:
    """Means over the rounds that both designs have, with their 95 % intervals."""
    uniform, sequential = (results(folder, design) for design in DESIGNS)
    both = sorted(uniform.keys() & sequential.keys())
    differences = [
        _mean_errors(sequential[number], kind) - _mean_errors(uniform[number], kind)
        for number in both
    ]
    points = [shown([100 * float(each[i]) for each in differences], "+.2f") for i in range(2)]
    return (kind, *points, str(len(both)))


def _mean_errors(cell: dict[str, Any], kind: str) -> NDArray[np.float64]:
    """Mean absolute error of a table, as measured and with the drift taken out."""
    errors = np.array(cell["errors"][kind], dtype=np.float64)
    mean: NDArray[np.float64] = np.abs(errors).mean(axis=0)
    return mean


def _row(folder: Path, design: str, kind: str) -> tuple[str, ...]:
    """Means over rounds with their 95 % intervals."""
    cells = list(results(folder, design).values())
    errors = [np.abs(np.array(cell["errors"][kind], dtype=np.float64)) for cell in cells]
    if not errors:
        return (design, "", "", kind, "", "", "", "0")
    seconds, passes = (np.mean([cell[key] for cell in cells]) for key in ("seconds", "passes"))
    return (
        design,
        f"{seconds / 60:.1f} min",
        f"{passes:.0f}",
        kind,
        shown([float(each[:, 0].mean()) for each in errors]),
        f"{max(float(each[:, 0].max()) for each in errors):.1%}",
        shown([float(each[:, 1].mean()) for each in errors]),
        str(len(errors)),
    )


if __name__ == "__main__":
    main()
