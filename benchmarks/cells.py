"""Cells of a benchmark: pieces of work that are done once, in turn, until the time is up.

A cell's result is one JSON file; a cell that was interrupted goes on from its run folder.
"""

from __future__ import annotations

import json
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from scipy.stats import t as student

from latbench.environment import current_environment
from latbench.files import write_atomically

Progress = Callable[[float, str], None]
CONFIDENCE = 0.95


def parser(about: str | None, *, one_target: bool = True) -> ArgumentParser:
    """What all benchmarks of cells ask: hours and a folder; most also a table and a target on it.

    Args:
        about: The benchmark's docstring.
        one_target: Whether it is of one table and one target.
    """
    made = ArgumentParser(description=(about or "").split("\n")[0])
    if one_target:
        made.add_argument("table", type=Path)
        made.add_argument("--target", required=True)
    made.add_argument("--hours", type=float, required=True)
    made.add_argument("-o", "--output", type=Path, required=True)
    return made


class TimeIsUp(Exception):
    """The time that was given is over; what was finished is kept."""


class Clock:
    """Raises ``TimeIsUp`` from within a cell, between two steps."""

    def __init__(self, hours: float) -> None:
        self._end = monotonic() + hours * 3600

    @property
    def hours_left(self) -> float:
        return (self._end - monotonic()) / 3600

    def check(self, fraction: float = 0.0, words: str = "") -> None:
        if monotonic() > self._end:
            raise TimeIsUp


def run_cells(
    folder: Path,
    names: Iterable[tuple[str, int]],
    work: Callable[[str, int, Path, Progress], dict[str, Any]],
    clock: Clock,
    *,
    keep: bool = True,
) -> None:
    """Do the cells, pairs of a name and a seed, in the order given, as far as time allows.

    Args:
        folder: Of results and runs.
        names: The cells.
        work: Does one, in a folder of its own, and returns its result.
        clock: Ends the work when the time is up.
        keep: Checkpoints of finished cells, which other cells may need; those of one search take
            half a gigabyte.
    """
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


def results(folder: Path, name: str) -> dict[int, dict[str, Any]]:
    """Results of all finished cells of a name, by seed."""
    files = (folder / "cells").glob(f"{name}-*.json")
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
    return f"{mean:{form}}" if np.isnan(half) else f"{mean:{form}} ± {half:{form}}"
