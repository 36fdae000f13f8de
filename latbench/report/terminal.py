"""Terminal output: progress with the remaining time, and tables.

Results go to standard output. Everything else goes to standard error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from latbench.progress import Progress
from latbench.report.streams import Forgiving, say
from latbench.units import format_s

_REDRAW_EVERY_S = 0.25
_LOG_EVERY_S = 30.0  # interval of progress lines if standard error is not a terminal


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Yield a callback that shows the finished fraction, a description and the remaining time."""
    console = Console(file=cast(IO[str], Forgiving()))
    if not console.is_terminal:
        yield _logger(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[words]}", justify="left"),
    )
    # a background thread must not redraw while a call is timed, so only updates redraw the bar
    bars = Bars(*columns, console=console, transient=True, auto_refresh=False)
    task = bars.add_task(title, total=1.0, words="")
    last = 0.0

    def show(fraction: float, words: str, /) -> None:
        nonlocal last
        bars.start()  # starts here, so that work that ends at once or fails draws no bar
        bars.update(task, completed=fraction, words=words)
        if monotonic() - last > _REDRAW_EVERY_S:
            bars.refresh()
            last = monotonic()

    try:
        yield show
    finally:
        bars.stop()


def _logger(title: str) -> Progress:
    last = monotonic()
    begin: tuple[float, float] | None = None  # resumed work begins above 0

    def log(fraction: float, words: str, /) -> None:
        nonlocal last, begin
        now = monotonic()
        begin_s, first = begin = begin or (now, fraction)
        if now - last < _LOG_EVERY_S:
            return
        last = now
        time_left = ""
        if fraction > first:
            left_s = (now - begin_s) * (1 - fraction) / (fraction - first)
            time_left = f", {format_s(left_s)} left"
        say(f"{title}: {fraction:.0%}{time_left} ({words})")

    return log


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headers; all columns after the first are right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        first = index == 0
        table.add_column(
            header, justify="left" if first else "right", overflow="fold", no_wrap=not first
        )
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Print plain lines without wrapping, so that commands in them can be copied."""
    console = Console()
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
