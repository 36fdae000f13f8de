"""Kills of the two sides of a profiling elsewhere, at random moments."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]


def profile_with_kills(
    command: list[str], *, kills: int, seed: int, server: str, within_s: tuple[float, float]
) -> int:
    """Run a command until it succeeds; kill it, or the server that it started, meanwhile.

    Args:
        command: Arguments of ``latbench``.
        kills: Number of kills, of both sides in turn.
        seed: Seed of the moments.
        server: Part of the server's command line.
        within_s: Shortest and longest time between two kills, in s.

    Returns:
        Number of kills that met a running process.
    """
    rng, met = random.Random(seed), 0
    program = [sys.executable, str(ROOT / "cli.py"), *command]
    running = _start(program)
    for number in range(kills):
        time.sleep(rng.uniform(*within_s))
        if number % 2:
            met += any(_kill(pid) for pid in _processes(server))
        else:
            met += running.poll() is None
            running.kill()
        if running.poll() is not None or not number % 2:
            running.wait()
            running = _start(program)
    for _ in range(kills):  # a server that dies before it has answered ends the command
        if running.wait() == 0:
            return met
        running = _start(program)
    if running.wait() != 0:
        raise RuntimeError(f"{' '.join(program)} ended with {running.returncode}")
    return met


def passes_of(table: Path) -> list[list[tuple[str, int]]]:
    """Targets of every pass in the order of the visits, each with its number of cold calls."""
    with closing(sqlite3.connect(table)) as db:
        numbers = db.execute("SELECT id FROM passes ORDER BY sweep, number").fetchall()
        query = (
            "SELECT key, length(cold_ns) FROM visits JOIN targets ON targets.id = target "
            "WHERE pass = ? ORDER BY visits.rowid"
        )
        return [db.execute(query, number).fetchall() for number in numbers]


def _start(program: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _processes(part: str) -> list[int]:
    """Processes whose command line has a part, but not their shells and lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if Path(os.fsdecode(words[0])).name.startswith("python") and any(
                part.encode() in word for word in words[1:]
            ):
                found.append(int(folder.name))
    return found


def _kill(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
