"""Standard output and standard error that may be closed, full or limited to some characters.

A result that cannot be printed is an error of the command. Progress and messages that cannot be
printed are dropped, and the command continues. Characters that the encoding does not have are
replaced by similar ones.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import unicodedata
import warnings
from typing import TYPE_CHECKING, TextIO

from latbench.errors import LatbenchWarning, OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NEAREST = "latbench-nearest"
"""Name of the error handler that replaces missing characters by similar ones."""

_CONTROLS = re.compile(  # what a terminal obeys, or what turns the direction of a text
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
_DESCRIPTORS = ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY))
_NEAREST = {
    **{"\N{MICRO SIGN}": "u", "\N{GREEK SMALL LETTER MU}": "u"},
    **{"\N{MULTIPLICATION SIGN}": "x", "\N{PLUS-MINUS SIGN}": "+-", "\N{MINUS SIGN}": "-"},
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2500\u2501\u2578\u257a", "-"),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **{"\N{HORIZONTAL ELLIPSIS}": "...", "\N{LATIN SMALL LETTER SHARP S}": "ss"},
    **{"\N{RIGHTWARDS ARROW}": "->", "\N{BULLET}": "*"},
    **dict(zip("\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", "_.:-=+*#", strict=True)),
}


class ReaderLeft(Exception):
    """The reader of standard output, such as ``head``, has closed the pipe."""


class _Result(io.FileIO):
    """Standard output whose write errors are ``OutputError`` or ``ReaderLeft``."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ReaderLeft from None
        except OSError as error:
            raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def prepare_streams() -> None:
    """Make the standard streams safe to use. Call this once, before any file is opened.

    Standard descriptors that are closed are opened on the null device, so that no file that is
    opened later gets their numbers. Standard output stays None if it was closed. Otherwise, a
    failed write to it raises ``OutputError``, for example on a full disk, or ``ReaderLeft``.
    """
    for descriptor, flags in _DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # uses the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    codecs.register_error(NEAREST, _nearest)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors=NEAREST)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Result(1, "w", closefd=False)),
            encoding=sys.stdout.encoding,
            errors=NEAREST,
            line_buffering=sys.stdout.line_buffering,
            write_through=sys.stdout.write_through,
        )
    _say_warnings()


def require_output() -> None:
    """Check that the result of a command can be printed.

    Raises:
        OutputError: Standard output is closed.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed: to drop results, redirect it to /dev/null")


def printable(text: str) -> str:
    """The text with control characters spelled out: names may come from somebody else's file."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(line: str) -> None:
    """Write a line to standard error; do nothing if that fails."""
    try:
        sys.stderr.write(f"{printable(line)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # full, without a reader, or closed
        _drop(2)


def _say_warnings() -> None:
    """Print warnings of this project as plain lines on standard error; leave others unchanged."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, LatbenchWarning):
            say(f"latbench: {message}")
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    warnings.simplefilter("always", LatbenchWarning)


class Forgiving(io.TextIOBase):
    """Standard error for progress: text that cannot be written is dropped."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.stderr.encoding

    def isatty(self) -> bool:
        return sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def write(self, text: str) -> int:
        try:
            sys.stderr.write(text)
        except (OSError, ValueError):
            _drop(2)
        return len(text)

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            _drop(2)


def drop_output() -> None:
    """Discard the rest of the result, because the interpreter flushes it again at exit."""
    _drop(1)


def _drop(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _nearest(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replacement for characters that the encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if "\udc80" <= sign <= "\udcff":  # a byte that the locale could not decode is written unchanged
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return _NEAREST.get(sign) or _plain(sign), error.start + 1


def _plain(sign: str) -> str:
    """ASCII form of a character: a letter without accents, a similar sign or a question mark."""
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"
