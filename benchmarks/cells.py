"""Cells of a benchmark: pieces of work that are done once, in turn, until the time is up.

A cell's result is one JSON file; a cell that was interrupted goes on from its run folder. Cells in
which nothing is timed can be done side by side, each in a process of its own with one thread. Cells
whose memory is measured are done apart: each in a process of its own, one after the other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any

import numpy as np
from scipy.stats import t as student

from latbench.blocks import network_graph
from latbench.environment import current_environment
from latbench.errors import InvalidValueError, LatbenchError
from latbench.files import write_atomically
from latbench.tables import LatencyTable
from nas.crew.base import CrewSettings, make_crew
from nas.evaluators.tabular import TabularEvaluator
from nas.spaces import SearchSpace

Progress = Callable[[float, str], None]
CONFIDENCE = 0.95
TIME_IS_UP = 75  # exit code of a cell that may go on (EX_TEMPFAIL)
_UNTIL = f'if [ "$(date +%s)" -ge "$0" ]; then exit {TIME_IS_UP}; fi; exec "$@"'


def parser(
    about: str | None,
    *,
    one_target: bool = True,
    side_by_side: bool = False,
    apart: bool = False,
) -> ArgumentParser:
    """What all benchmarks of cells ask: hours and a folder; most also a table and a target on it.

    Args:
        about: The benchmark's docstring.
        one_target: Whether it is of one table and one target.
        side_by_side: Whether cells can be done side by side.
        apart: Whether each cell is done in a process of its own, one after the other.
    """
    made = ArgumentParser(description=(about or "").split("\n")[0])
    if one_target:
        made.add_argument("table", type=latency_table)
        made.add_argument("--target", required=True)
    made.add_argument("--hours", type=float, required=True)
    made.add_argument("-o", "--output", type=Path, required=True)
    if side_by_side:
        made.add_argument("--workers", type=_workers, help="cells at once, with one thread each")
        made.add_argument("--ray", help="address of a Ray cluster that does the cells")
    made.set_defaults(apart=apart)
    if side_by_side or apart:
        made.add_argument("--only", help=SUPPRESS)  # the cell of this process
        made.add_argument("--ends", type=float, help=SUPPRESS)  # time of the end, in s since 1970
    return made


def _workers(text: str) -> int:
    """A number of workers that a crew can have."""
    count = int(text)
    try:
        CrewSettings(count)
    except InvalidValueError as error:
        raise ArgumentTypeError(error.message) from None
    return count


def published_accuracies(text: str) -> TabularEvaluator:
    """A file of NAS-Bench-Macro's accuracies, as an option; read before anything is trained."""
    try:
        return TabularEvaluator(Path(text))
    except LatbenchError as error:
        raise ArgumentTypeError(error.message) from None


def latency_table(text: str) -> Path:
    """The file of a latency table, as an option; read before anything is measured or trained."""
    try:
        LatencyTable.open(text)
    except LatbenchError as error:
        raise ArgumentTypeError(error.message) from None
    return Path(text)


def layers_of_a_stage(text: str) -> int:
    """A number for ``shortened``, as an option."""
    count = int(text)
    if count < 1:
        raise ArgumentTypeError(f"{count} layers are no stage: give 1 or more")
    return count


class TimeIsUp(Exception):
    """The time that was given is over; what was finished is kept."""


class Clock:
    """Raises ``TimeIsUp`` from within a cell, between two steps."""

    def __init__(self, hours: float, *, ends: float | None = None) -> None:
        left_s = hours * 3600 if ends is None else ends - time()
        self._end = monotonic() + left_s
        self._parent = None if ends is None else os.getppid()  # the worker that asked for a cell

    @classmethod
    def of(cls, asked: Namespace) -> Clock:
        """The clock of a benchmark, or that of a process that does one of its cells."""
        return cls(asked.hours, ends=getattr(asked, "ends", None))

    @property
    def hours_left(self) -> float:
        return (self._end - monotonic()) / 3600

    def check(self, fraction: float = 0.0, words: str = "") -> None:
        if monotonic() > self._end or self._parent not in (None, os.getppid()):
            raise TimeIsUp


def run_cells(
    folder: Path,
    names: Iterable[tuple[str, int]],
    work: Callable[[str, int, Path, Progress], dict[str, Any]],
    clock: Clock,
    *,
    keep: bool = True,
    asked: Namespace | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Do the cells, pairs of a name and a seed, in the order given, as far as time allows.

    Cells that are done side by side begin in this order. If one that is done apart fails, the
    command ends, because those after it may need it.

    Args:
        folder: Folder of results and runs.
        names: The cells.
        work: Does one, in a folder of its own, and returns its result.
        clock: Ends the work when the time is up.
        keep: Checkpoints of finished cells, which other cells may need; those of one search take
            half a gigabyte.
        asked: Options of a benchmark whose cells can be done side by side or apart.
        settings: What all cells of the folder have in common, as plain JSON values.

    Raises:
        SystemExit: The folder holds cells of other settings.
    """
    if settings is not None:
        require_settings(folder, settings)
    if asked is not None:
        if asked.only is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # its worker ignores Ctrl-C
            names = [cell for cell in names if f"{cell[0]}-{cell[1]}" == asked.only]
        elif asked.apart:
            _run_apart(folder, names, clock, CrewSettings(count=1), in_turn=True)
            return
        elif (asked.workers, asked.ray) != (None, None):
            try:
                crew = CrewSettings(asked.workers, asked.ray)
                _run_apart(folder, names, clock, crew, in_turn=False)
            except LatbenchError as error:  # no Ray, or no cluster at its address
                sys.exit(error.message)
            return
    for name, seed in names:
        result = folder / "cells" / f"{name}-{seed}.json"
        if result.exists():
            continue
        run = folder / "runs" / f"{name}-{seed}"
        try:
            clock.check()
            done = work(name, seed, run, clock.check)
        except TimeIsUp:
            print("the time is up: the same command goes on from here")
            return
        write_atomically(result, json.dumps(done, indent=2, allow_nan=False) + "\n")
        if not keep:
            for checkpoints in [*run.rglob("checkpoint")]:
                shutil.rmtree(checkpoints)
        print(f"{name}, seed {seed}: done", flush=True)


def chosen(asked: Namespace, *names: str) -> dict[str, Any]:
    """Some of a command's options, as settings of its cells."""
    return {name: getattr(asked, name) for name in names}


def require_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Record what all cells of a folder have in common; what an older folder lacks is not compared.

    Raises:
        SystemExit: The folder holds cells of other settings.
    """
    from nas.training.run_config import read_config
    from nas.training.run_folder import RunFolder  # imports torch

    kept = folder / "settings"
    try:
        if kept.exists():
            known = read_config(kept)
            settings = {name: value for name, value in settings.items() if name in known}
        RunFolder(kept, settings)
    except LatbenchError as error:
        sys.exit(error.message)


def _run_apart(
    folder: Path,
    names: Iterable[tuple[str, int]],
    clock: Clock,
    settings: CrewSettings,
    *,
    in_turn: bool,
) -> None:
    """Do the cells by the workers of a crew: each is the same command for one cell.

    Args:
        folder: Folder of results and runs.
        names: The cells.
        clock: Ends the work when the time is up.
        settings: The crew.
        in_turn: Whether a cell may have all threads, and may need those before it.
    """
    cells = [f"{name}-{seed}" for name, seed in names]
    missing = [cell for cell in cells if not (folder / "cells" / f"{cell}.json").exists()]
    ends = time() + clock.hours_left * 3600
    threads = () if in_turn else ("env", "OMP_NUM_THREADS=1")
    same = ["sh", "-c", _UNTIL, str(int(ends)), *threads, sys.executable]
    commands = [[*same, *sys.argv, f"--ends={ends}", f"--only={cell}"] for cell in missing]
    work = partial(subprocess.call, cwd=Path.cwd())  # also on other nodes, which share the folder
    codes = []
    with make_crew(work, settings, at_once=max(1, len(missing))) as crew:
        for cell, code in zip(missing, crew.map(commands), strict=True):
            codes.append(code)
            if code not in (0, TIME_IS_UP):
                print(f"{cell} ended with exit code {code}", flush=True)
                if in_turn:
                    sys.exit(f"what is done is kept: mend {cell}, and repeat the command")
    if TIME_IS_UP in codes:
        print("the time is up: the same command goes on from here")


class Stopwatch:
    """Seconds of a piece of work, with those of its earlier parts that were not killed, in a file.

    Args:
        file: Seconds of the earlier parts, as JSON.
        clock: Clock in s; ``time.process_time`` counts processor time.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = monotonic) -> None:
        self.file, self.clock = file, clock
        self.total_s = json.loads(file.read_text()) if file.exists() else 0.0

    def __enter__(self) -> Stopwatch:
        self._begin = self.clock()
        return self

    def __exit__(self, *raised: object) -> None:
        self.total_s += self.clock() - self._begin
        write_atomically(self.file, json.dumps(self.total_s, allow_nan=False) + "\n")


def copy_supernet(shared: Path, own: Path) -> None:
    """Copy a run's supernet to another run, once: whole or not at all.

    Raises:
        SystemExit: Its weights are gone, and its result is kept.
    """
    source, copied = (run / "checkpoint" / "supernet.pt" for run in (shared, own))
    if not copied.exists():
        if not source.exists():
            result = shared.parents[1] / "cells" / f"{shared.name}.json"
            sys.exit(f"there is no {source}: delete {result}, and the command trains it again")
        copied.parent.mkdir(exist_ok=True)
        part = copied.with_suffix(".part")
        shutil.copyfile(source, part)
        part.rename(copied)


def shortened(space: SearchSpace, layers: int | None) -> SearchSpace:
    """The space with at most so many layers a stage; None keeps all.

    Raises:
        InvalidValueError: A layer that is left out changes the size of the maps.
    """
    if layers is None:
        return space
    short = replace(space, stages=tuple(stage[:layers] for stage in space.stages))
    try:
        network_graph(short.lower(short.random(seed=0)))
    except ValueError:
        raise InvalidValueError(
            f"a layer of {space.name} beyond the first {layers} of its stage changes the size of "
            "the maps, so the rest does not fit"
        ) from None
    return short


def results(folder: Path, name: str) -> dict[int, dict[str, Any]]:
    """Results of all finished cells of a name, by seed."""
    files = [f for f in (folder / "cells").glob("*.json") if f.stem.rpartition("-")[0] == name]
    found = {int(f.stem.rpartition("-")[2]): json.loads(f.read_text()) for f in files}
    return dict(sorted(found.items()))


def heading(versions: Mapping[str, str]) -> list[str]:
    """What every table begins with: machine, versions of what matters, command."""
    environment = current_environment(versions)
    return [
        f"{environment.cpu}, {environment.cores} cores, {environment.system}, "
        f"{environment.taken_at}",
        "  ".join(f"{name} {version}" for name, version in environment.versions.items()),
        f"command: {' '.join(sys.argv)}",
    ]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t); NaN for a single value."""
    mean = float(np.mean(values)) if values else float("nan")
    if len(values) < 2:
        return mean, float("nan")
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error


def shown(values: Sequence[float], form: str = ".1%") -> str:
    """Mean and interval in words."""
    if not values:
        return ""
    mean, half = mean_interval(values)
    if np.isnan(half):
        return f"{mean:{form}}"
    return f"{mean:{form}} ± {half:{form.removeprefix('+')}}"
