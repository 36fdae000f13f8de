"""Output of commands: results as JSON or as text, progress, errors and exit codes."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from latbench.errors import LatbenchError, OutputError, file_error
from latbench.files import utf8
from latbench.progress import PhaseText, Progress, silent
from latbench.report.streams import ReaderLeft, drop_output, say

QUIET = "latbench.quiet"
"""Key of ``--quiet`` in the data of a click context."""

EXIT_FAILED_CHECK = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # the exit code that shells report for a program ended by Ctrl-C


def is_first() -> bool:
    """Whether this process prints; only the first of the processes of ``torchrun`` does."""
    launched = "WORLD_SIZE" in os.environ  # RANK alone may mean something else
    return not launched or os.environ.get("RANK", "0") == "0"


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Yield a callback that draws progress bars with the remaining time on standard error.

    The first bar appears at once: imports and files may take seconds. ``--quiet`` draws nothing.
    """
    if is_quiet() or not is_first():
        yield silent
        return
    from latbench.report.terminal import progress_bar

    with progress_bar(title) as shown:
        shown(0.0, PhaseText("starting", "", 0.0, None))
        yield shown


@contextmanager
def joint_progress(title: str, names: Sequence[str]) -> Iterator[Callable[[str], Progress]]:
    """Yield a function that makes the progress callback of one of several parts of the work."""
    if is_quiet():
        yield lambda name: silent
        return
    from latbench.report.terminal import progress_bars

    with progress_bars(title, names) as of:
        yield of


def is_quiet() -> bool:
    """Whether the present command was given ``--quiet``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(QUIET))


def emit(result: dict[str, Any], *, as_json: bool, render: Callable[[], None]) -> None:
    """Print a result as one JSON object or as text; only the first of several processes prints."""
    if not is_first():
        return
    if as_json:
        click.echo(json_line(result))
    else:
        render()


@contextmanager
def after_result() -> Iterator[None]:
    """Context manager for work after ``emit``: an error is a line on standard error.

    Standard output has the result already, and with ``--json`` it holds one object.
    """
    try:
        yield
    except LatbenchError as error:
        fail(error, as_json=False)
    except (OSError, sqlite3.Error) as error:
        fail(file_error(error), as_json=False)


def json_line(value: object) -> str:
    """JSON as one line of ASCII without lone surrogates."""
    text = json.dumps(value, allow_nan=False)
    if "\\ud" in text:  # perhaps a file's name that the locale could not decode
        whole = utf8(json.dumps(value, allow_nan=False, ensure_ascii=False))
        text = json.dumps(json.loads(whole), allow_nan=False)
    return text


def fail(error: LatbenchError, *, as_json: bool) -> NoReturn:
    """Print an error in one line, or as JSON if standard output is usable, and exit."""
    if as_json and not isinstance(error, OutputError):
        try:
            click.echo(json_line({"error": error.as_dict()}))
        except OutputError:
            drop_output()
        except ReaderLeft:
            drop_output()
            sys.exit(EXIT_BAD_INPUT)
        else:
            sys.exit(EXIT_BAD_INPUT)
    if isinstance(error, OutputError):
        drop_output()
    say(f"latbench: {' '.join(error.message.split())}")
    sys.exit(EXIT_BAD_INPUT)
