"""Terminal output: progress with the remaining time, and tables.

Results go to standard output. Everything else goes to standard error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from time import monotonic
from typing import IO, Any, cast

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from latbench.progress import PhaseText, Progress
from latbench.report.streams import Forgiving, printable, say
from latbench.units import format_s

_REDRAW_EVERY_S = 0.25
_LOG_EVERY_S = 10.0  # interval of progress lines if standard error is not a terminal
_ENDLESS = 10_000  # columns of a line that is never folded
_MOST = 0.99  # what is shown before the end
_COLUMNS = (
    TextColumn("{task.description}", markup=False),
    BarColumn(bar_width=24),
    TextColumn("{task.fields[percent]:>4}"),
    TextColumn("{task.fields[left]}"),
    TextColumn("{task.fields[words]}", style="dim", markup=False),
)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Yield a callback that shows phase, finished fraction, time left and a description.

    A terminal gets one bar a phase, and a line every 10 s is written where there is none.
    """
    console = Console(file=cast(IO[str], Forgiving()))
    if not console.is_terminal:
        yield _Lines(title)
        return
    shown = _PhaseBars(title, console)
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def progress_bars(title: str, names: Sequence[str]) -> Iterator[Callable[[str], Progress]]:
    """Yield a function that makes the progress callback of a part of the work that has a name.

    The parts run at once, each in its own thread. A terminal gets one bar a part; where there is
    none, a line every 10 s says how many parts are finished, and how far the slowest one is.
    """
    console = Console(file=cast(IO[str], Forgiving()))
    if not console.is_terminal:
        yield _JointLines(title, names).of
        return
    bars = _JointBars(title, names, console)
    with bars:
        yield bars.of


class _JointBars:
    """Bars in a terminal, one a part of the work."""

    def __init__(self, title: str, names: Sequence[str], console: Console) -> None:
        self._bars = Bars(*_COLUMNS, console=console, transient=True, auto_refresh=False)
        self._tasks = {
            name: self._bars.add_task(f"{title}: {name}", total=1.0, **_fields()) for name in names
        }
        self._drawn_s, self._lock = 0.0, Lock()

    def __enter__(self) -> None:
        self._bars.start()

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def of(self, name: str) -> Progress:
        """The callback of a part."""
        left = _TimeLeft()

        def report(fraction: float, words: str, /) -> None:
            now_s, is_done = monotonic(), fraction >= 1
            phase, _ = _phase(fraction, words)
            fields = _fields(
                percent="done" if is_done else _percent(fraction),
                left="" if is_done else left(now_s, fraction, words),
                words="" if is_done else _detail(phase, words),
            )
            with self._lock:
                self._bars.update(self._tasks[name], completed=fraction, **fields)
                if now_s - self._drawn_s > _REDRAW_EVERY_S:
                    self._bars.refresh()
                    self._drawn_s = now_s

        return report


class _JointLines:
    """Lines about several parts where standard error is no terminal."""

    def __init__(self, title: str, names: Sequence[str]) -> None:
        self._title, self._said_s = title, monotonic()
        self._done = dict.fromkeys(names, 0.0)
        self._words = dict.fromkeys(names, "starting")
        self._lock = Lock()

    def of(self, name: str) -> Progress:
        """The callback of a part."""

        def report(fraction: float, words: str, /) -> None:
            with self._lock:
                self._done[name], self._words[name] = fraction, str(words)
                if monotonic() - self._said_s >= _LOG_EVERY_S:
                    self._said_s = monotonic()
                    self._say()

        return report

    def _say(self) -> None:
        finished = sum(done >= 1 for done in self._done.values())
        slowest = min(self._done, key=self._done.__getitem__)
        say(
            f"{self._title}: {finished} of {len(self._done)} finished; {slowest} "
            f"{_percent(self._done[slowest])} ({self._words[slowest]})"
        )


class _TimeLeft:
    """Time left of the whole work: what its phases say, or else from the fraction alone."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # resumed work begins above 0

    def __call__(self, now_s: float, fraction: float, words: str) -> str:
        """The time left as words; empty if it is unknown."""
        begin_s, first = self._first = self._first or (now_s, fraction)
        left_s = words.left_s if isinstance(words, PhaseText) else None
        if not isinstance(words, PhaseText) and fraction > first:
            left_s = (now_s - begin_s) * (1 - fraction) / (fraction - first)
        return "" if left_s is None else f"{format_s(max(1.0, left_s))} left"


class _PhaseBars:
    """Bars in a terminal, one a phase; a background thread would disturb what is being timed."""

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._bars = Bars(*_COLUMNS, console=console, transient=True, auto_refresh=False)
        self._tasks: dict[str, TaskID] = {}
        self._left = _TimeLeft()
        self._drawn_s = 0.0

    def __call__(self, fraction: float, words: str, /) -> None:
        """Draw the state, at most four times a second; only this redraws."""
        name, done = _phase(fraction, words)
        is_new = name not in self._tasks
        now_s = monotonic()
        left = self._left(now_s, fraction, words)
        if fraction >= 1:
            return  # the end: what follows is quick
        self._bars.start()
        if is_new:
            self._end_phase()
            self._tasks[name] = self._bars.add_task(
                f"{self._title}: {name}" if name else self._title, total=1.0, **_fields()
            )
        fields = _fields(percent=_percent(done), left=left, words=_detail(name, words))
        self._bars.update(self._tasks[name], completed=min(_MOST, done), **fields)
        if is_new or now_s - self._drawn_s > _REDRAW_EVERY_S:
            self._bars.refresh()
            self._drawn_s = now_s

    def _end_phase(self) -> None:
        if "" in self._tasks:  # what came before the first phase
            self._bars.remove_task(self._tasks.pop(""))
        for task in self._tasks.values():
            self._bars.update(task, completed=1.0, **_fields(percent="done"))

    def close(self) -> None:
        """Remove the bars."""
        self._bars.stop()


class _Lines:
    """Lines where standard error is no terminal."""

    def __init__(self, title: str) -> None:
        self._title, self._said_s = title, monotonic()
        self._left = _TimeLeft()

    def __call__(self, fraction: float, words: str, /) -> None:
        """Write a line if the last one is 10 s ago."""
        now_s = monotonic()
        left = self._left(now_s, fraction, words)
        if now_s - self._said_s < _LOG_EVERY_S or fraction >= 1:
            return
        self._said_s = now_s
        name, done = _phase(fraction, words)
        parts = [f"{name} {_percent(done)}" if name else _percent(done), *([left] if left else [])]
        say(f"{self._title}: {', '.join(parts)} ({_detail(name, words)})")


def _phase(fraction: float, words: str) -> tuple[str, float]:
    """Name and finished part of the present phase; no name for work without phases."""
    return (words.phase, words.done) if isinstance(words, PhaseText) else ("", fraction)


def _detail(name: str, words: str) -> str:
    """The description, without a name of the phase that it begins with."""
    return str(words).removeprefix(f"{name}, ")


def _fields(percent: str = "", left: str = "", words: str = "") -> dict[str, Any]:
    return {"percent": percent, "left": left, "words": words}


def _percent(fraction: float) -> str:
    """A fraction of unfinished work, rounded down."""
    return f"{int(100 * min(_MOST, fraction))}%"


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headers; all columns after the first are right-aligned.

    A terminal's width folds the first column, and so does ``COLUMNS``; a pipe and a file have lines
    as long as the rows.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(map(printable, headers)):
        first = index == 0
        table.add_column(
            Text(header), justify="left" if first else "right", overflow="fold", no_wrap=not first
        )
    for row in rows:
        # plain: names may hold what rich would take for markup
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        endless = console.options.update(max_width=_ENDLESS)
        console.width = Measurement.get(console, endless, table).maximum
    console.print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Print plain lines without wrapping, so that commands in them can be copied."""
    console = Console()
    for line in lines:
        console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
