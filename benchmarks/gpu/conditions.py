"""Under which conditions an item runs: device, time, folder and sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Conditions:
    """What an item is given.

    Attributes:
        on: ``cuda``, or ``cpu`` for a try of the script itself at tiny sizes.
        seconds: What the item may take.
        folder: Where it may leave files.
        began: When it started, by the monotonic clock.
    """

    on: str
    seconds: float
    folder: Path
    began: float

    @property
    def tiny(self) -> bool:
        """Whether this is a try without a GPU, in which no figure means anything."""
        return self.on == "cpu"

    @property
    def seconds_left(self) -> float:
        return self.seconds - (monotonic() - self.began)

    def side(self, item: str, *arguments: str) -> list[str]:
        """Command of a process of the item's own, which calls its module's ``serve``."""
        script = str(ROOT / "benchmarks" / "gpu_check.py")
        return [sys.executable, script, "--on", self.on, "--serve", item, *arguments]


def environment() -> dict[str, str]:
    """Environment of processes that import this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def latbench(*arguments: str | Path, timeout_s: float) -> dict[str, Any]:
    """Result of a command of ``latbench`` under ``--json``; a failed check is a result as well.

    Raises:
        RuntimeError: The command failed; says how.
    """
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=timeout_s, check=False
    )
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-2000:]}") from None
    if "error" in result:
        raise RuntimeError(f"exit code {done.returncode}: {result['error']}")
    return result
