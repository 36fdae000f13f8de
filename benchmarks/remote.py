"""A device over ssh against the same device here: time, prices, kills, verification.

    python benchmarks/remote.py -o RUN --hours 1 [--kills 20] [--passes 8]

An ssh server on the loopback stands for the board; the core is installed into an environment of its
own (no torch), which takes a network or a wheel cache. One profile here, one over ssh and one here
again have the same number of passes. A smaller profiling is then killed on both sides at random
moments and compared with an undisturbed one, and the table over ssh is verified and fitted until
verified. The same command goes on with what is missing.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import venv
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from cells import Clock, Progress, heading, parser, results, run_cells
from kills import ROOT, passes_of, profile_with_kills
from ssh_server import NAME, ssh_server

import nas
from latbench.device import DeviceProfile, Host, SweepProtocol
from latbench.device_files import write_device
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable

SPACE = ("tfnas", 32, 10)
HERE, THERE = "here", "over ssh"
KILLED = 40  # passes of the profiling that is killed
BETWEEN_S = (1.0, 4.0)  # between two kills
_LIST = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"


def main() -> None:
    """Measure what is missing, and print all that is there."""
    arguments = parser(__doc__, one_target=False)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--passes", type=int, default=8)
    asked = arguments.parse_args()
    python = asked.output.resolve() / "environment" / "bin" / "python"

    def work(name: str, seed: int, run: Path, progress: Progress) -> dict[str, Any]:
        run.mkdir(parents=True, exist_ok=True)
        if name == "install":
            return _installed(python)
        if name == "profile":
            return _profiled(asked.output, python, (HERE, THERE, HERE)[seed], run, asked.passes)
        if name == "kills":
            return _killed(python, run, asked.kills)
        return _verified(asked.output, python, progress)

    cells = [("install", 0), *(("profile", seed) for seed in range(3)), ("kills", 0), ("verify", 0)]
    run_cells(asked.output, cells, work, Clock(asked.hours))
    print_lines(heading(make_profiler(_device(None, 1)).versions()))
    _show(asked.output)


def _device(host: Host | None, passes: int) -> DeviceProfile:
    sweep = SweepProtocol(min_passes=passes, max_passes=passes)
    return DeviceProfile("board", "onnxruntime", sweep=sweep, host=host)


def _host(python: Path) -> Host:
    return Host(ssh=NAME, python=str(python))


@contextmanager
def _ssh() -> Any:
    """A server whose ``ssh`` is first on the path."""
    with tempfile.TemporaryDirectory() as folder, ssh_server(Path(folder) / "ssh") as programs:
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{programs}{os.pathsep}{path}"
        try:
            yield
        finally:
            os.environ["PATH"] = path


def _installed(python: Path) -> dict[str, Any]:
    """The core alone in an environment of its own, and its size."""
    folder, begin = python.parents[1], perf_counter()
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "-q", str(ROOT)], check=True)
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "pip"], check=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    listed = subprocess.run(
        [python, "-c", _LIST],
        check=True,
        capture_output=True,
        text=True,
    )
    return {"mb": size / 1e6, "packages": listed.stdout.strip(), "seconds": perf_counter() - begin}


def _profiled(output: Path, python: Path, place: str, run: Path, passes: int) -> dict[str, Any]:
    """One profiling with a number of passes, here or over ssh."""
    table = run / "t.sqlite"
    table.unlink(missing_ok=True)
    with _ssh():
        device = _device(_host(python) if place == THERE else None, passes)
        begin = perf_counter()
        found = nas.profile(device, nas.make_space(*SPACE), table, time_limit="2h")
    seconds = perf_counter() - begin
    return {"place": place, "seconds": seconds, "passes": found.result.passes}


def _killed(python: Path, run: Path, kills: int) -> dict[str, Any]:
    """Passes of a profiling that was killed, against those of one that was not."""
    found, met = [], 0
    with _ssh():
        for name, count in (("quiet", 0), ("killed", kills)):
            device, table = run / f"{name}.toml", run / f"{name}.sqlite"
            table.unlink(missing_ok=True)
            write_device(_device(_host(python), KILLED), device)
            command = ["profile", str(device), "nasbench-macro", "-o", str(table)]
            met = profile_with_kills(
                command, kills=count, seed=0, server="latbench.serve", within_s=BETWEEN_S
            )
            found.append(passes_of(table))
    quiet, killed = found
    return {"kills": met, "passes": len(quiet), "equal": killed[: len(quiet)] == quiet}


def _verified(output: Path, python: Path, progress: Progress) -> dict[str, Any]:
    """Verification and a verified budget on the table that was filled over ssh."""
    path = output / "runs" / "profile-1" / "t.sqlite"
    with _ssh():
        table = LatencyTable.open(path)
        verified = nas.verify([], table, random=12, seed=7, progress=progress)
        space = nas.make_space(*SPACE)
        drawn = space.random(np.random.default_rng(0))
        target_ms = 0.9 * nas.predict(drawn, table).latency_ms
        fitted = nas.fit(
            drawn,
            table,
            target=target_ms,
            widths="efficient",
            until_verified=True,
            progress=progress,
        )
    return {"mape": verified.mape, "drift": verified.drift, "fit": fitted.as_dict()}


def _prices(path: Path) -> dict[str, float]:
    table = LatencyTable.open(path)
    return {str(spec): table.price_ms(spec) for spec in table.estimates}


def _difference(one: Path, other: Path) -> str:
    """Mean and 95 % quantile of the relative differences of prices."""
    a, b = _prices(one), _prices(other)
    ratios = [abs(b[name] / a[name] - 1) for name in a.keys() & b.keys()]
    return f"{np.mean(ratios):.1%}, {np.quantile(ratios, 0.95):.1%}"


def _show(folder: Path) -> None:
    for each in results(folder, "install").values():
        print_lines([f"core alone: {each['mb']:.0f} MB, {each['packages']}"])
    cells = results(folder, "profile")
    paths = {seed: folder / "runs" / f"profile-{seed}" / "t.sqlite" for seed in cells}
    print_table(
        ("profile", "passes", "time", "prices against the first: mean, 95 %"),
        [
            (
                cell["place"],
                str(cell["passes"]),
                f"{cell['seconds']:.0f} s",
                _difference(paths[0], paths[seed]) if seed else "",
            )
            for seed, cell in cells.items()
        ],
    )
    for each in results(folder, "kills").values():
        same = "equal" if each["equal"] else "DIFFERENT"
        print_lines([f"{each['kills']} kills met a process: {each['passes']} passes {same}"])
    for each in results(folder, "verify").values():
        fit = each["fit"]
        print_lines(
            [
                f"verified over ssh: mean error {each['mape']:.1%}; fitted to "
                f"{fit['target_ms']:.4g} ms: {fit['status']} in {fit['rounds']} rounds, measured "
                f"{fit['measured_ms']:.4g} ms"
            ]
        )


if __name__ == "__main__":
    main()
