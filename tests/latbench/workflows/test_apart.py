"""Work in a process of its own: it needs nothing of the program that asks for it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import pytest

from latbench.errors import RuntimeFailure
from latbench.progress import Progress
from latbench.workflows.apart import _work_here, run_apart

ROOT = Path(__file__).parents[3]
LARGE = bytes(1 << 20)  # more than a pipe holds
SCRIPT = """
from latbench.workflows.apart import run_apart
from tests.latbench.workflows.test_apart import LARGE, length

print("began")
print(run_apart(length, LARGE, died="died"))
"""


def length(values: bytes, progress: Progress) -> int:
    progress(0.5, "counting")
    return len(values)


def _end(*_: object) -> None:
    os._exit(1)


class _Deadly:
    """An argument that ends the process that receives it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_a_script_asks_for_work_without_beginning_again(tmp_path: Path) -> None:
    """Although it does not ask whether it is the main program, and sends more than a pipe holds."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"began\n{len(LARGE)}\n", "")


@pytest.mark.parametrize("argument", [LARGE, _Deadly()])
def test_a_process_that_dies_is_an_error(argument: object) -> None:
    with pytest.raises(RuntimeFailure, match="it died"):
        run_apart(_end, argument, died="it died")


def holds_ctrl_c_back(progress: Progress) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_is_for_the_process_that_asked() -> None:
    """A terminal sends it to both; the other would write a traceback."""
    assert run_apart(holds_ctrl_c_back, died="died")
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("asked", [False, True])
def test_a_process_without_its_asker_ends_in_silence(asked: bool) -> None:
    ours, theirs = Pipe()
    if asked:
        with open(ours.fileno(), "wb", closefd=False) as stream:
            pickle.dump((length, (LARGE[:10],)), stream)
    ours.close()
    _work_here(theirs)
