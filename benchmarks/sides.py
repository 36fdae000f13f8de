"""The sides of a comparison: processes of their own that take one step at a time, when asked.

Each side has its own memory and its own settings of the C library and of PyTorch. The process that
compares asks them in turn, so that a busy moment of the machine hits all sides alike.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

_FAILED = "failed:"
_END_S = 2.0


class SideFailed(Exception):
    """A side could not take a step; says why."""


class Side:
    """One side, seen from the process that compares.

    Args:
        command: Starts a process that calls ``serve``.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str) -> float:
        """What a step took in ms, or the value of a figure.

        Raises:
            SideFailed: The step failed, or the process ended.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideFailed("the process ended") from None
        answer = self._process.stdout.readline().strip()
        if not answer or answer.startswith(_FAILED):
            raise SideFailed(answer.removeprefix(_FAILED).strip() or "the process ended")
        return float(answer)

    def close(self) -> None:
        """End the process, after the step that it is at if that is short."""
        try:
            self._process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def serve(
    steps: Mapping[str, Callable[[], object]],
    figures: Mapping[str, Callable[[], float]],
    *,
    wait: Callable[[], None] = lambda: None,
) -> None:
    """Take the steps that standard input names, until it ends; answer on standard output.

    Args:
        steps: Steps by name; the answer is the time of one, in ms.
        figures: Values by name.
        wait: Returns when the device has done all its work.
    """
    for line in sys.stdin:
        name = line.strip()
        try:
            answer = f"{figures[name]() if name in figures else _taken_ms(steps[name], wait)}"
        except Exception as error:  # such as a GPU without room; the comparing process decides
            answer = f"{_FAILED} {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(answer, flush=True)


def _taken_ms(step: Callable[[], object], wait: Callable[[], None]) -> float:
    gc.disable()
    try:
        wait()
        begin = perf_counter()
        step()
        wait()
        return (perf_counter() - begin) * 1e3
    finally:
        gc.enable()
