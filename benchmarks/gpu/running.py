"""Running one item in a process of its own, with a time limit that ends all it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.gpu.conditions import environment
from benchmarks.gpu.record import read_record

DONE, FAILED, TIMED_OUT, NO_GPU, NO_TIME = "done", "FAILED", "TIMED OUT", "no GPU", "no time left"
_SHOWN = 12  # last lines of a failed item's output
_GRACE_S = 5  # between the end of an item's own time and the end of its process


def run_item(command: Sequence[str], folder: Path, name: str, *, seconds: float) -> dict[str, Any]:
    """Findings of an item, with ``status``, ``seconds`` and, if it failed, its last ``output``.

    Args:
        command: Starts the item, which writes ``<name>.json`` into the folder.
        folder: Folder of the check.
        name: Name of the item.
        seconds: After these and a few more, the item and all its processes are killed.
    """
    found_in, log = folder / f"{name}.json", folder / f"{name}.log"
    found_in.unlink(missing_ok=True)
    begin = monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds + _GRACE_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill_all(process)
    found = read_record(found_in)
    ended = DONE if code == 0 else FAILED
    found["status"] = TIMED_OUT if code is None else found.get("status", ended)
    found["seconds"] = round(monotonic() - begin, 1)
    if found["status"] in (FAILED, TIMED_OUT):
        found["output"] = log.read_text("utf-8", "replace").splitlines()[-_SHOWN:]
        found["exit_code"] = code
    return found


def item_command(script: Path, on: str, name: str, folder: Path, seconds: float) -> list[str]:
    """What starts an item."""
    options = ["--on", on, "-o", str(folder), "--seconds", f"{seconds:.0f}"]
    return [sys.executable, str(script), *options, "--item", name]


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
