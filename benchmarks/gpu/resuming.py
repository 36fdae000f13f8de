"""A search through the command line that is killed in its second epoch, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep
from typing import Any

import torch

from benchmarks.gpu.conditions import ROOT, Conditions, environment
from benchmarks.gpu.record import Record
from benchmarks.gpu.running import FAILED
from benchmarks.tfnas_sides import made_up_table
from nas.latency.priced_space import PricedSpace
from nas.spaces import make_space

_LOOK_S = 0.02
_INTO_EPOCH = 0.3  # of the first epoch's time, after which the second one is killed


def run(conditions: Conditions, record: Record) -> None:
    """Search twice, once interrupted, and compare all that is kept."""
    table = conditions.folder / "table.sqlite"
    space = make_space("tfnas", 32, 10)
    low, high = PricedSpace(space, made_up_table(space, table)).feasible_ms()
    images = "64" if conditions.tiny else "1200"
    options = [
        "search", "tfnas", "--searcher", "tfnas", "--table", table,
        "--target", f"{(low + high) / 2:.4f}ms", "--data", "digits", "--epochs", "2",
        "--images", images, "--seed", "3",
        "--torch-device", conditions.on,
    ]  # fmt: skip
    whole, broken = (conditions.folder / name for name in ("whole", "broken"))
    uninterrupted = _start(options, whole)
    interrupted = _start(options, broken)
    killed_at = _kill_in_second_epoch(interrupted, broken, conditions)
    record.add(killed_at)
    _finish(_start(options, broken), conditions)
    _finish(uninterrupted, conditions)
    names = sorted(path.name for path in (whole / "architectures").iterdir())
    same = all(
        (whole / "architectures" / name).read_text()
        == (broken / "architectures" / name).read_text()
        for name in names
    )
    apart, tensors = _weights_apart(whole, broken)
    equal = same and apart == 0.0
    record.add(
        f"gone on against uninterrupted: {len(names)} architectures "
        f"{'identical' if same else 'DIFFERENT'}, {tensors} tensors of checkpoints "
        f"{'bit-equal' if apart == 0 else f'differ by up to {apart:.2e}'}; losses "
        f"{_losses(broken)}, uninterrupted {_losses(whole)}",
        same_architectures=same,
        largest_difference=apart,
        bit_equal=equal,
    )
    if not (same and names):
        record.end(FAILED)


def _start(options: list[str | Path], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, options), "-o", str(folder)]
    return subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL)


def _finish(process: subprocess.Popen[bytes], conditions: Conditions) -> None:
    code = process.wait(conditions.seconds_left)
    if code:
        raise RuntimeError(f"the search ended with exit code {code}")


def _kill_in_second_epoch(
    process: subprocess.Popen[bytes], folder: Path, conditions: Conditions
) -> str:
    """Kill the search a while after its first epoch was logged; say when."""
    while not (epochs := _epochs(folder)):
        if process.poll() is not None:
            raise RuntimeError(f"the search ended with exit code {process.returncode}")
        if conditions.seconds_left < 0:
            process.kill()
            raise RuntimeError("the first epoch was not finished in time")
        sleep(_LOOK_S)
    sleep(_INTO_EPOCH * float(epochs[0]["seconds"]))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(_epochs(folder))
    return f"killed with {finished} of 2 epochs finished, the first took {epochs[0]['seconds']} s"


def _epochs(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    return [row for row in map(json.loads, lines) if "seconds" in row]


def _losses(folder: Path) -> str:
    return ", ".join(f"{row['loss']:.6g}" for row in _epochs(folder)[-2:])


def _weights_apart(first: Path, second: Path) -> tuple[float, int]:
    """Largest difference between tensors of all checkpoints, and how many there are."""
    largest, count = 0.0, 0
    for path in sorted((first / "checkpoint").iterdir()):
        ours = _tensors(torch.load(path, map_location="cpu", weights_only=True))
        theirs = _tensors(
            torch.load(second / "checkpoint" / path.name, map_location="cpu", weights_only=True)
        )
        for a, b in zip(ours, theirs, strict=True):
            count += 1
            if not torch.equal(a, b):
                largest = max(largest, float((a.double() - b.double()).abs().max()), 1e-300)
    return largest, count


def _tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in _tensors(value)]
    if isinstance(state, (list, tuple)):
        return [tensor for value in state for tensor in _tensors(value)]
    return []
