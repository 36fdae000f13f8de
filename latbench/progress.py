"""Progress callbacks of long computations: one protocol for both packages.

A computation with several parts has **phases**. They turn the progress of each part into the
progress of the whole. Its fractions never fall, and only the end is 1. The time left is that of the
present phase, at the rate that it has shown so far, plus the expected time of all later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, Self

_MOST = 0.999  # largest fraction before the end
_TRUSTED = 0.05  # part of a phase after which its rate alone says how long it takes


class Progress(Protocol):
    """Callback that a long computation calls from time to time.

    It runs between measurements or training steps, in the thread of the computation. An exception
    that it raises ends the computation in the same way as Ctrl-C: finished parts are kept.
    """

    def __call__(self, fraction: float, words: str, /) -> None:
        """Report progress.

        Args:
            fraction: Finished part of the work, 0 to 1; 1 only at the end.
            words: Short description of the current work, a ``PhaseText`` in work that has phases.
        """


def silent(fraction: float, words: str, /) -> None:
    """Ignore the progress; this is the default of every function of the library."""


class PhaseText(str):
    """Description of the current work that also knows its phase.

    Attributes:
        phase: Name of the phase.
        done: Finished part of the phase, 0 to 1.
        left_s: Time left of all phases, in s; None as long as it cannot be estimated.
    """

    phase: str
    done: float
    left_s: float | None

    def __new__(cls, words: str, phase: str, done: float, left_s: float | None) -> Self:
        """The same words, with the phase."""
        made = super().__new__(cls, words)
        made.phase, made.done, made.left_s = phase, done, left_s
        return made

    def __reduce__(self) -> tuple[type[PhaseText], tuple[str, str, float, float | None]]:
        """Keep the phase in copies that are sent to another process."""
        return PhaseText, (str(self), self.phase, self.done, self.left_s)


@dataclass(frozen=True)
class Phase:
    """One part of a computation.

    Attributes:
        name: Name in the display, distinct within a computation.
        share: Expected time, relative to that of other phases.
        seconds: Expected time in s, for a phase whose time does not depend on the machine, such as
            a measurement; then ``share`` is not used.
        steady: Whether its fractions are fractions of its time from the beginning; otherwise the
            expected time counts as well until a part of it is done.
    """

    name: str
    share: float = 1.0
    seconds: float | None = None
    steady: bool = False


class Phases:
    """Progress of a computation from the progress of its phases, in their order.

    It is a context manager; its end without an exception is reported as 1. A phase that is never
    reported is one that was not needed.

    Args:
        progress: Callback of the whole computation.
        phases: The phases.
        clock: Function that returns the time in s; the system's if None.
    """

    def __init__(
        self,
        progress: Progress,
        phases: Sequence[Phase],
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._progress, self._clock = progress, clock or monotonic
        self._phases = tuple(phases)
        self._numbers = {phase.name: number for number, phase in enumerate(phases)}
        self._present = -1
        self._begin_s = self._first = self._reached = 0.0
        self._taken_s = 0.0  # by finished phases
        self._shared_s = self._shares = 0.0  # time and shares of finished phases that have shares
        self._fraction = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._progress(1.0, "done")

    def __getitem__(self, name: str) -> Progress:
        """The callback of a phase."""
        number = self._numbers[name]
        return lambda fraction, words: self._report(number, fraction, words)

    def _report(self, number: int, fraction: float, words: str) -> None:
        if number < self._present:
            return
        now_s, phase = self._clock(), self._phases[number]
        if number > self._present:
            self._end_phase(now_s)
            self._present, self._begin_s = number, now_s
            self._first = self._reached = min(1.0, fraction)
        self._reached = min(1.0, max(fraction, self._reached))
        whole_s, unit_s = self._estimates(phase, now_s - self._begin_s)
        later = self._phases[number + 1 :]
        later_s = sum(_expected_s(each, unit_s or 1.0) for each in later)
        left_s = (1 - self._reached) * whole_s + later_s
        done_s = self._taken_s + self._reached * whole_s
        if done_s + left_s > 0:
            self._fraction = max(self._fraction, min(_MOST, done_s / (done_s + left_s)))
        is_known = unit_s is not None or all(each.seconds is not None for each in (phase, *later))
        detail = f"{words.phase}, {words}" if isinstance(words, PhaseText) else words
        self._progress(
            self._fraction,
            PhaseText(detail, phase.name, self._reached, left_s if is_known else None),
        )

    def _end_phase(self, now_s: float) -> None:
        """Count the time of the present phase, if there is one."""
        if self._present < 0:
            return
        phase, taken_s = self._phases[self._present], now_s - self._begin_s
        self._taken_s += taken_s
        if phase.seconds is None:
            self._shared_s += taken_s
            self._shares += phase.share * (1 - self._first)

    def _estimates(self, phase: Phase, spent_s: float) -> tuple[float, float | None]:
        """Time of the whole present phase and of one share, in s; None for an unknown one."""
        moved = self._reached - self._first
        unit_s = self._shared_s / self._shares if self._shares > 0 else None
        expected_s = phase.seconds
        if expected_s is None and unit_s is not None:
            expected_s = unit_s * phase.share
        if moved <= 0:
            guess_s = phase.share if expected_s is None else expected_s
            return max(guess_s, spent_s), unit_s
        whole_s = spent_s / moved
        if expected_s is not None and not phase.steady:
            trust = min(1.0, moved / _TRUSTED)
            whole_s = trust * whole_s + (1 - trust) * expected_s
        if phase.seconds is None:
            shares = self._shares + phase.share * moved
            unit_s = (self._shared_s + spent_s) / shares if shares > 0 else unit_s
        return whole_s, unit_s


def _expected_s(phase: Phase, unit_s: float) -> float:
    return phase.share * unit_s if phase.seconds is None else phase.seconds
